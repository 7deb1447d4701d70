"""The audit chain: records that cannot be changed unseen, and decisions kept in them."""
