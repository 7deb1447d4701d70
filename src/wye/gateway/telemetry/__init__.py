"""What the gateway tells others about itself: traces and logs, and what is kept out of both."""
