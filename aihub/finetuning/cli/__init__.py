"""`aihub train`: data sets, trainings and adapters."""
