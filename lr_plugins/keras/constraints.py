"""Keras' constraints under Keras' names: see `lr_plugins.constraints`."""

from lr_plugins.constraints import *  # noqa: F403
from lr_plugins.constraints import __all__ as __all__
from lr_plugins.constraints import maxnorm as maxnorm
from lr_plugins.constraints import nonneg as nonneg
from lr_plugins.constraints import unitnorm as unitnorm
