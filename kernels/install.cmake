# The kernels as static libraries, their headers, and a package of CMake's: find_package(alexnet_kernels) gives a program in C++
# alexnet::cpu and, where it was built with a CUDA compiler, alexnet::gpu. Both have all of kernels.h, so a program links one.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

file(STRINGS pyproject.toml version REGEX "^version = ")
string(REGEX MATCH "[0-9]+[.][0-9]+[.][0-9]+" version "${version}")

add_cpu_kernels(cpu STATIC "${ALEXNET_CPU_ARCH}")
set_target_properties(cpu PROPERTIES OUTPUT_NAME alexnet_cpu)
set(libraries cpu)
if(CMAKE_CUDA_COMPILER)
  find_package(CUDAToolkit REQUIRED)
  add_library(gpu STATIC $<TARGET_OBJECTS:gpu_kernels> $<TARGET_OBJECTS:gpu_hopper>)
  set_target_properties(gpu PROPERTIES OUTPUT_NAME alexnet_gpu LINKER_LANGUAGE CXX)
  target_link_libraries(gpu PUBLIC CUDA::cudart_static)
  list(APPEND libraries gpu)
endif()
foreach(library ${libraries})
  target_compile_features(${library} INTERFACE cxx_std_20)
  target_include_directories(${library} INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
endforeach()

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/alexnet_kernels)
install(TARGETS ${libraries} EXPORT alexnet_kernels DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES kernels/kernels.h kernels/cpu.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/alexnet)
install(EXPORT alexnet_kernels NAMESPACE alexnet:: FILE targets.cmake DESTINATION ${package})
file(CONFIGURE OUTPUT alexnet_kernelsConfig.cmake @ONLY CONTENT [[
include(CMakeFindDependencyMacro)
find_dependency(Threads)
if("@libraries@" MATCHES "gpu")
  find_dependency(CUDAToolkit)
endif()
include(${CMAKE_CURRENT_LIST_DIR}/targets.cmake)
]])
write_basic_package_version_file(alexnet_kernelsConfigVersion.cmake VERSION ${version} COMPATIBILITY SameMinorVersion)
install(
  FILES ${CMAKE_CURRENT_BINARY_DIR}/alexnet_kernelsConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/alexnet_kernelsConfigVersion.cmake
  DESTINATION ${package})
