"""How far an answer is to be trusted, judged after it is there: scores in [0, 1], high = trust.

Each score is a function on arrays and a `Judge` (`wye.query.policies`) that any cascade can test:
token probabilities and margins (`token_probability`), the law of answers and their entropy
(`predictive_entropy`, `semantic_entropy`), agreement of samples (`self_consistency`), of kinds of
prompt (`representations`) and of models (`agreement_cascade`), the model's own verdict (`p_true`,
`confidence_token`), prediction sets (`conformal`); `calibration` turns any of them into a
probability of being right and finds thresholds.
"""
