"""The only code that uses private or version-dependent parts of Lightning's Trainer."""
