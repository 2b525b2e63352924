"""The main job: train a model under a learning-rate schedule. `python train.py --help` shows what can be set."""

from __future__ import annotations

from pathlib import Path

try:
    import hydra
    from omegaconf import DictConfig
except ModuleNotFoundError as error:
    raise SystemExit(f'{error}. train.py needs more than the library alone: pip install -e ".[train]"') from None

from lr_plugins.training.cli import readable_errors


@hydra.main(config_path="conf", config_name="train", version_base="1.3")
def main(config: DictConfig) -> float | None:
    """Hydra's entry, whose result is a sweeper's objective; torch is imported here, so that --help answers at once."""
    from lr_plugins.training.run import train

    return train(config).objective


if __name__ == "__main__":
    readable_errors(main, Path(__file__).parent / "conf")
