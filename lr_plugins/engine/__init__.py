"""When the learning rate is written and recorded: torch, without Lightning."""
