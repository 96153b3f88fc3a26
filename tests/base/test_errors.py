from scoutview.base.errors import masked, missing_extra, unknown


def test_unknown__names_the_nearest_and_all_known() -> None:
    message = str(unknown("method", "simcrl", ["simclr", "byol"]))
    assert message == "Unknown method 'simcrl'. Did you mean 'simclr'? Known: byol, simclr."


def test_unknown__says_nothing_near_where_nothing_is() -> None:
    assert "Did you mean" not in str(unknown("method", "zzz", ["simclr"]))


def test_masked__keeps_the_form_and_no_content() -> None:
    assert masked("Müller^PAT-0042") == "AAAAAA^AAA-9999"
    assert masked("x" * 30) == "A" * 24 + "…"


def test_missing_extra__names_the_command() -> None:
    assert "pip install 'scoutview[onnx]'" in str(missing_extra("onnx", "onnx"))
