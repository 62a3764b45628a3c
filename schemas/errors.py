"""The one root of headrace's errors.

```
HeadraceError                 says where, what was wanted, what came, what to do next
├── SettingsError             a setting that must stop the start          (infra.settings)
├── UnknownUseCase            no module of that name in a layer           (schemas.usecase)
├── TopicError                Kafka refused to create or describe a topic (schemas.topics)
├── IncompatibleSchema        a contract changed so that readers break    (schemas.evolution)
├── ResultTimeout             no answer came within the wait              (schemas.client)
└── …                         each layer's own, beside the code that raises them
```
"""

from __future__ import annotations


class HeadraceError(Exception):
    """Something that a person must decide about; `str()` is a whole sentence for them.

    Attributes:
        where: The place: a file, a setting, a topic, a definition.
        wanted: What would have been right.
        came: What was there instead.
        mend: What to do next.
    """

    def __init__(self, where: str, *, wanted: str, came: str, mend: str = "") -> None:
        self.where = where
        self.wanted = wanted
        self.came = came
        self.mend = mend
        sentence = f"{where}: wanted {wanted}, but {came}."
        super().__init__(f"{sentence} {mend}" if mend else sentence)
