from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from hypothesis import settings

from schemas import topics
from schemas.settings import KafkaSettings
from tests.monitoring import rig

# The first example pays for scipy's imports, and other engines share the cores.
settings.register_profile("monitoring", deadline=None)
settings.load_profile("monitoring")


@pytest.fixture
def case(request: pytest.FixtureRequest, kafka: KafkaSettings) -> Iterator[str]:
    """A use case of this test's own: nothing of another test is in its topics."""
    name = rig.register("mon_" + re.sub(r"\W", "_", request.node.name))
    topics.apply(kafka, name)
    yield name
    rig.unregister(name)
