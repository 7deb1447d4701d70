"""Questions with answers that a program can grade, for the embedded set of outcomes."""
