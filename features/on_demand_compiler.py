"""One on-demand view: a Feast `OnDemandFeatureView` → `OnDemandView`, or the reasons why not.

The function is run on sample rows: it must give what the view declares, the same whenever it is called, and for each row
whatever rows stand beside it. Otherwise serving, training and parity could not agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import ModuleType

import numpy as np
import pyarrow as pa
from feast import Field
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.types import Bool, FeastType, Float32, Float64, Int32, Int64, String

from features import on_demand_source
from features.lake_schema import arrow_schema
from features.on_demand import Input, Kind, Mode, OnDemandView
from features.on_demand_function import Column, Function
from features.on_demand_source import FunctionUnusable
from features.refusal import Refusal
from features.view_compiler import NAME
from schemas.topics import Topic

_KINDS: Mapping[FeastType, Kind] = {
    **dict.fromkeys((Bool, Float32, Float64, Int32, Int64), "number"),
    String: "string",
}
# Values of a number in the sample rows: ordinary ones, a zero, and none at all.
SAMPLE = (3.5, 1.0, 250.0, 0.0, float("nan"), 42.0)


class OnDemandCompiler:
    """Compiles one view; what is wrong with it collects in `refusals`."""

    def __init__(
        self,
        definition: OnDemandFeatureView,
        module: ModuleType,
        topics: Mapping[str, Topic],
        known: Mapping[str, set[str]],
    ) -> None:
        self.definition = definition
        self.module = module.__name__
        self.known = known
        requests = topics.get(f"{self.module.rpartition('.')[2]}.requests")
        self.contract = requests.contract if requests else None
        self.refusals: list[Refusal] = []

    def view(self) -> OnDemandView | None:
        """The compiled view; None where anything was refused."""
        definition = self.definition
        self._check_shape()
        inputs, request = tuple(self._inputs()), dict(self._request())
        found = None if self.refusals else self._cut()
        if found is None:
            return None
        mode: Mode = "python" if definition.mode == "python" else "pandas"
        features = tuple(f.name for f in definition.features)
        view = OnDemandView(
            definition.name, self.module, found.name, found.digest, mode, inputs, request, features
        )
        self._try_out(Function(view))
        return None if self.refusals else view

    def _check_shape(self) -> None:
        definition = self.definition
        for name in (definition.name, *(f.name for f in definition.features)):
            if not NAME.match(name):
                self._refuse("names of a-z, 0-9 and single _", f"{name!r} is not one", "Rename it.")
        if definition.mode not in ("pandas", "python"):
            mend = "Write it for batches of rows: a data frame, or lists by name."
            self._refuse('mode "pandas" or "python"', f"it is {definition.mode!r}", mend)
        for option in ("singleton", "write_to_online_store", "aggregations", "input_schema"):
            if getattr(definition, option):
                came = f"it has {option}"
                self._refuse("a function of a batch, run at each read", came, "Leave it out.")
        if not definition.features:
            self._refuse("a schema", "it declares no features", "Name what the function gives.")
        for field in definition.features:
            if field.dtype != Float64:
                came = f"{field.name!r} is {field.dtype}"
                self._refuse("features of Float64", came, "A function's null is NaN; declare that.")

    def _inputs(self) -> Iterator[Input]:
        for projection in self.definition.source_feature_view_projections.values():
            if projection.name_alias or projection.join_key_map:
                came = f"{projection.name!r} is renamed (with_name or with_join_key_map)"
                self._refuse(
                    "sources under their own names and keys", came, "Define a second view."
                )
            if projection.name not in self.known:
                came = f"it reads {projection.name!r}"
                mend = "Define the view in the same module, or mend its refusal."
                self._refuse(f"one of the runnable views {sorted(self.known)}", came, mend)
                continue
            for field in projection.features:
                kind = self._kind(field)
                if field.name not in self.known[projection.name]:
                    came = f"it reads {projection.name}:{field.name}"
                    mend = "Correct the schema of that view."
                    self._refuse(f"one of {sorted(self.known[projection.name])}", came, mend)
                elif kind:
                    yield Input(projection.name, field.name, kind)

    def _request(self) -> Iterator[tuple[str, Kind]]:
        fields = [f for s in self.definition.source_request_sources.values() for f in s.schema]
        if fields and self.contract is None:
            came = f"it reads {[f.name for f in fields]}"
            self._refuse("a use case with requests", came, "Take the values from a view.")
            return
        columns = arrow_schema(self.contract) if self.contract else pa.schema([])
        for field in fields:
            kind = self._kind(field)
            if field.name not in columns.names:
                came = f"the request source has {field.name!r}"
                mend = "Only what a request says can be known when it is scored."
                self._refuse(f"fields of the requests: {sorted(columns.names)}", came, mend)
            elif kind and (kind == "string") != pa.types.is_string(columns.field(field.name).type):
                came = f"{field.name!r} is {field.dtype} here and {columns.field(field.name).type} there"
                self._refuse("the types of the requests' contract", came, "Correct the schema.")
            elif kind:
                yield field.name, kind

    def _kind(self, field: Field) -> Kind | None:
        kind = _KINDS.get(field.dtype)
        if kind is None:
            came = f"{field.name!r} is {field.dtype}"
            self._refuse("inputs that are numbers or strings", came, "Leave it out.")
        return kind

    def _cut(self) -> on_demand_source.Cut | None:
        transformation = self.definition.feature_transformation
        function = getattr(transformation, "udf", None)
        name = getattr(function, "__name__", "")
        try:
            found = on_demand_source.cut(on_demand_source.source_of(self.module), name)
        except FunctionUnusable as error:
            self._refuse(error.wanted, error.came, error.mend)
            return None
        if function is None or function.__code__.co_firstlineno != found.line:
            came = f"another {name!r} than the one at line {found.line} of the module"
            self._refuse("a function of the module itself", f"it is {came}", "Move it there.")
            return None
        return found

    def _try_out(self, function: Function) -> None:
        rows = len(SAMPLE)
        columns = self._sample()
        try:
            whole = function.strict(columns, rows)
            again = function.strict(columns, rows)
            alone = [
                function.strict({n: c[r : r + 1] for n, c in columns.items()}, 1)
                for r in range(rows)
            ]
        # The author's code may raise anything.
        except Exception as error:  # noqa: BLE001
            came = f"on sample rows {[*SAMPLE]} it raised {type(error).__name__}: {error}"
            mend = 'Numbers come as float64, null as NaN, or None in mode "python".'
            self._refuse("a function that runs, nulls included", came[:500], mend)
            return
        for name in self.definition.features:
            values = whole[name.name]
            each = np.concatenate([one[name.name] for one in alone])
            for other, came in (
                (again[name.name], "is another at the second call"),
                (each, "is another when the row stands alone"),
            ):
                if not np.array_equal(values, other, equal_nan=True):
                    mend = (
                        "No chance, no clock, no state, and nothing taken over the rows of a batch."
                    )
                    self._refuse("a value of its row alone", f"{name.name!r} {came}", mend)

    def _sample(self) -> dict[str, Column]:
        """Rows of unlike values, each column a turn further, the null in another row of each."""
        definition = self.definition
        named: list[tuple[str, Kind | None]] = [
            (f"{projection.name}__{field.name}", _KINDS.get(field.dtype))
            for projection in definition.source_feature_view_projections.values()
            for field in projection.features
        ]
        requested = [f for s in definition.source_request_sources.values() for f in s.schema]
        named += [(field.name, _KINDS.get(field.dtype)) for field in requested]
        columns: dict[str, Column] = {}
        for turn, (name, kind) in enumerate(named):
            numbers = [SAMPLE[(i + turn) % len(SAMPLE)] for i in range(len(SAMPLE))]
            texts = [None if np.isnan(v) else f"text {v}" for v in numbers]
            columns[name] = np.array(numbers) if kind == "number" else texts
        return columns

    def _refuse(self, wanted: str, came: str, mend: str) -> None:
        self.refusals.append(Refusal(f"view {self.definition.name}", wanted, came, mend))
