"""How good rankings are: functions of arrays, and nothing else."""
