"""What every optimiser of perfplan shares: the way to the MILP solver, and what a plan owes its reader."""
