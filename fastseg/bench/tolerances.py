"""How far results may be from float64, in tests and before the clock: the one table.

Relative L2 errors against the float64 reference run on the same, already rounded, inputs. One
rounding of the output is 2.1e-4 in float16 and 1.7e-3 in bfloat16, so nothing but that rounding
fits. These figures never soften.
"""

# by dtype: forward, backward
TOLERANCES = {
    "float32": (1e-6, 2e-6),
    "float64": (1e-13, 2e-13),
    "float16": (5e-4, 5e-4),
    "bfloat16": (2.5e-3, 2.5e-3),
}
# where TF32 was asked for: eleven bits of every factor of a matrix product, several in a row
TF32 = (2e-3, 4e-3)
