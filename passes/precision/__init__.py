"""Lower precision: float32 files as float16 or bfloat16 ones for strongly typed engines, verified again."""
