"""Learning in operation: versions of policies, online learners, feedback, experiments.

Read it in this order: `versions` and `version_keeper` (what decides, changed while serving),
`learner` and `learner_feed` (policies that learn from feedback), `judge` and `outcome_checks`
(where feedback comes from), `experiments`, `course` and `analysis` (trying a version on a part of
the traffic), `learning_report` (what the dashboard reads).
"""
