import tomllib

import pytest

from ummgat.core.config import PRESETS, Config, load_config
from ummgat.train.overrides import as_toml, with_overrides


def test_values_are_toml_and_text_needs_no_quotes():
    changed = with_overrides(
        Config(),
        [
            "train.batch=4",
            "model.depths = [1, 2]",
            "train.lr_mapper=1e-6",
            "train.precision=bf16-mixed",
            "train.seed=1",
        ],
    )
    assert (changed.train.batch, changed.model.depths, changed.train.lr_mapper) == (4, (1, 2), 1e-6)
    assert changed.train.precision == "bf16-mixed"
    assert with_overrides(changed, ['train.precision="32-true"']).train.precision == "32-true"
    assert Config().train.batch == 8  # the original is as it was


def test_the_last_override_of_a_setting_counts_and_none_changes_nothing():
    assert with_overrides(Config(), ["train.batch=4", "train.batch=6"]).train.batch == 6
    config = load_config("small")
    assert with_overrides(config, []) is config


def test_all_bad_overrides_are_named_at_once_with_what_would_have_worked():
    with pytest.raises(ValueError, match="Setting is not valid: --set") as caught:
        with_overrides(Config(), ["los.cycle=2", "train.batch=many", "abc", "loss.cycle=-1"])
    message = str(caught.value)
    for part in ("los.cycle=2", "train.batch", "'abc' without '='", "loss.cycle", "expected section.key=value"):
        assert part in message
    for known in ("train.iterations", "loss.lesion", "model.window", "data.crop"):
        assert known in message


def test_settings_that_do_not_fit_each_other_are_refused():
    with pytest.raises(ValueError, match=r"data.crop .* must be divisible"):
        with_overrides(Config(), ["data.crop=[175, 176]"])


@pytest.mark.parametrize("preset", PRESETS)
def test_printed_toml_reads_back_as_the_same_config(preset, tmp_path):
    config = load_config(preset)
    path = tmp_path / "Kopie von früher.toml"
    path.write_text(as_toml(config), encoding="utf-8")
    assert load_config(path) == config
    assert set(tomllib.loads(as_toml(config))) == set(Config.model_fields)


def test_preset_paper_holds_what_the_paper_states_and_nothing_of_ours():
    """Source: Li et al. 2025, Methods; SPEC of losses: all weights 1, no term of our own."""
    config = load_config("paper")
    train, loss = config.train, config.loss
    assert (train.iterations, train.batch, train.schedule, train.d_real) == (20_000, 8, "literal", "source")
    assert (train.betas, train.weight_decay, train.ema_decay) == ((0.0, 0.99), 1e-4, 0.999)
    assert (loss.adversarial, loss.style, loss.cycle, loss.lesion) == (1, 1, 1, 1)
    assert (loss.relation, loss.structure, loss.diversity) == (0, 0, 0)
    assert (config.data.crop, config.data.spacing_mm) == ((176, 176), 1.0)
