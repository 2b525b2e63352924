"""Hydra's groups for any app: `schedule`, and `callbacks` with the scheduler. On the search path: pkg://lr_plugins.conf."""
