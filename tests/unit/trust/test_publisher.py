from nodectl.trust.publisher import Publisher, merged, trusted_keys

ONE = Publisher(key=b"1" * 32, name="one")
TWO = Publisher(key=b"2" * 32, name="two", expires=100)
GONE = Publisher(key=b"1" * 32, name="one", revoked=True)


def test_keys_count_until_they_expire_or_are_revoked() -> None:
    assert trusted_keys([ONE, TWO], 99) == {ONE.key, TWO.key}
    assert trusted_keys([ONE, TWO], 100) == {ONE.key}
    assert trusted_keys([GONE, TWO], 99) == {TWO.key}


def test_a_revocation_is_never_forgotten() -> None:
    assert merged([ONE], [GONE]) == (GONE,)
    assert merged([GONE], [ONE]) == (GONE,)
    assert merged([GONE], []) == (GONE,)
    assert merged([ONE], []) == ()  # the controller may take a key back without revoking it
    assert merged([], [ONE, TWO]) == (ONE, TWO)


def test_a_publisher_reads_back() -> None:
    assert Publisher.from_json(TWO.to_json()) == TWO
