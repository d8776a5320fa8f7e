-- Fails when it is required.
error("late trouble")
