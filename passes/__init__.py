"""The compiler passes, in walking order.

`FindLinears` → `FindSpaces` → `Calibrate` → `Sparsify` → (`ConvertToFx` → `RefineModel`) → `RewriteWeights` (or
`EmitOnnx`) → `VerifyPattern` → `LowerPrecision` (or `QuantiseModel`) → `EmitEngines`.

A pass has one shape:

- It is a frozen dataclass, named by a verb and its object. Its fields are its settings, each with a default; a pass
  never sees the settings of the whole run.
- Its one entrance is `call`, which takes named inputs only and returns a frozen result object. A pass whose results are
  too large to be held at once returns an iterator of result objects.
- What it expects of its inputs stands in `requires`, what it promises of its result in `ensures`; both raise, and
  `call` runs them where that is cheap. What is not cheap is checked by a pass of its own: `VerifyPattern` reads again
  what was written.
- It changes none of its inputs, but for those of which it says so; it prints nothing; it reports progress through
  `tick`, where it takes one.
"""
