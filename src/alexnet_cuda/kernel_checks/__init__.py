"""``python -m alexnet_cuda.checks --kernels``: every kernel, in each precision and each way that it has, against
float64.

A *check* is one call of a function of ``alexnet_cuda.kernels``: its arguments, drawn at random, and what some 4,096 of
its outputs must be, computed from the formula with NumPy in float64, each with a bound that is derived from the number
of roundings and their precision (``bounds``). Of small outputs all are compared; of large ones those drawn (``drawn``),
among them the first and the last, images' corners, and some of as many tiles as there are draws. Everything else of an
output must have been written: arrays are full of NaN before. The same call must give the same bits again.

Shapes are small ones with edges of every kind, and the layers of AlexNet in one tower and in two, from the models' own
descriptions (``layers``). A *family* of checks (``families``) is a generator in a file of its own, which has the
formulas beside the shapes, and runs in a process of its own (``processes``), so that no fault reaches the next check.
"""
