"""Small models whose feed-forward layers are whatever they are given."""
