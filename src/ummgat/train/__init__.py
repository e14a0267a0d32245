"""The training of the model: slices, losses, one step, the loop, what survives a crash, validation, packing.

loop says who learns when and step who is updated by whom; losses are functions of tensors, slices makes batches that
are pure functions of (seed, step), augment varies them, relation and atlas_learning learn from the cohort without
pairs, validate chooses checkpoints, sources and code modes, estimate says what a run will cost, state survives a crash,
overrides are single settings from the command line, pack puts a run into one small file.
"""
