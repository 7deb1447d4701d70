"""Router-R1: a language model that routes in rounds, its protocol, reward and training."""
