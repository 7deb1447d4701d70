"""From dense networks to experts, and from many experts to fewer."""
