"""Feast definitions → `Plan`, or the reasons why not.

The compiler changes no meaning: what Feast accepts and the executors cannot run is refused, every definition at once, with
its file and line, what was wanted, what came, and what to write instead.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from feast import Entity, FeatureService, FeatureView, StreamFeatureView
from feast.data_source import DataSource
from feast.on_demand_feature_view import OnDemandFeatureView

from features.on_demand import OnDemandView
from features.on_demand_compiler import OnDemandCompiler
from features.refusal import PlanRefused, Refusal
from features.row_stream_compiler import RowStreamCompiler
from features.row_view_compiler import RowViewCompiler
from features.row_views import RowView
from features.view_compiler import NAME, ViewCompiler
from features.views import Plan, Service, View
from schemas.topics import Topic, table_of


class Compiled(NamedTuple):
    """Feast's objects, for `FeatureStore.apply`, and what the executors run."""

    objects: list[Any]
    plan: Plan


def compile_repo(module: ModuleType, topics: Mapping[str, Topic] | None = None) -> Compiled:
    """Compile all Feast objects at the top level of a module.

    Args:
        module: A use case's definitions, e.g. `features.flights`.
        topics: The topics views may read, by name; those of the use case that the module is named after if None.

    Raises:
        PlanRefused: with every reason there is.
    """
    known = table_of(module.__name__.rpartition(".")[2]) if topics is None else topics
    found = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    objects = _objects(list(found.values()))
    entities = {e.name: e for e in objects if isinstance(e, Entity)}
    places = _places(module, found)
    views, row_views, services = [], [], []
    refusals: list[Refusal] = []
    for definition in objects:
        if isinstance(definition, StreamFeatureView) and not definition.aggregations:
            of_stream = RowStreamCompiler(definition, entities, known)
            row_views.append(of_stream.row_view())
            refusals += _at(places, definition, of_stream.refusals)
        elif isinstance(definition, StreamFeatureView):
            compiler = ViewCompiler(definition, entities, known)
            views.append(compiler.view())
            refusals += _at(places, definition, compiler.refusals)
        elif isinstance(definition, FeatureView):
            of_rows = RowViewCompiler(definition, entities)
            row_views.append(of_rows.view())
            refusals += _at(places, definition, of_rows.refusals)
    compiled = tuple(view for view in views if view is not None)
    of_rows_compiled = tuple(view for view in row_views if view is not None)
    known_features = {v.name: {a.name for a in v.aggregates} for v in compiled}
    known_features |= {v.name: set(v.fields) for v in of_rows_compiled}
    on_demand: list[OnDemandView | None] = []
    for definition in objects:
        if isinstance(definition, OnDemandFeatureView):
            made = OnDemandCompiler(definition, module, known, known_features)
            on_demand.append(made.view())
            refusals += _at(places, definition, made.refusals)
    made_compiled = tuple(view for view in on_demand if view is not None)
    known_features |= {v.name: set(v.features) for v in made_compiled}
    for definition in objects:
        if isinstance(definition, FeatureService):
            services.append(_service(definition))
            refusals += _at(places, definition, _service_refusals(definition, known_features))
            refusals += _at(places, definition, _unshown(services[-1], made_compiled))
    refusals += _doubled([*views, *row_views, *on_demand])
    if refusals:
        raise PlanRefused(module.__name__, refusals)
    return Compiled(objects, Plan(compiled, tuple(services), of_rows_compiled, made_compiled))


def _objects(found: Sequence[object]) -> list[Any]:
    kinds = (Entity, FeatureView, FeatureService, OnDemandFeatureView)
    objects = [o for o in found if isinstance(o, kinds)]
    sources = [o for o in found if isinstance(o, DataSource)]
    return [*sources, *objects]


def _unshown(service: Service, views: Iterable[OnDemandView]) -> Iterator[Refusal]:
    """What a service's features are made of must be among them: a result shows what its values came from."""
    for view in views:
        missing = [i for i in view.inputs if (i.view, i.feature) not in service.features]
        if view.name in service.views and missing:
            yield Refusal(
                f"service {service.name}",
                f"the inputs of on-demand view {view.name} among its features",
                f"{missing[0].view}:{missing[0].feature} is not",
                "Name those views beside it, or narrow its sources: `sources=[view[[…]]]`.",
            )


def _doubled(views: Sequence[View | RowView | OnDemandView | None]) -> Iterator[Refusal]:
    names = [view.name for view in views if view is not None]
    for name in sorted({n for n in names if names.count(n) > 1}):
        yield Refusal(f"view {name}", "one definition of a name", "there are more", "Rename one.")


def _service(definition: FeatureService) -> Service:
    features = tuple(
        (projection.name, field.name)
        for projection in definition.feature_view_projections
        for field in projection.features
    )
    return Service(definition.name, features)


def _service_refusals(
    definition: FeatureService, known: Mapping[str, set[str]]
) -> Iterator[Refusal]:
    where = f"service {definition.name}"
    if not NAME.fullmatch(definition.name):
        came = f"it is {definition.name!r}"
        yield Refusal(where, "a name of a-z, 0-9 and single _", came, "Rename the service.")
    for projection in definition.feature_view_projections:
        if projection.name_alias or projection.join_key_map:
            yield Refusal(
                where,
                f"view {projection.name} under its own name and join keys",
                "it is renamed (with_name or with_join_key_map)",
                "Define a second view instead.",
            )
        if projection.name not in known:
            yield Refusal(
                where,
                f"one of the module's runnable views {sorted(known)}",
                f"it names view {projection.name!r}",
                "Define the view in the same module, or mend its refusal.",
            )
            continue
        for field in projection.features:
            if field.name not in known[projection.name]:
                yield Refusal(
                    where,
                    f"one of the features of {projection.name}: {sorted(known[projection.name])}",
                    f"it names {field.name!r}",
                    "Add an Aggregation of that name.",
                )


def _places(module: ModuleType, found: Mapping[str, object]) -> dict[int, str]:
    """The file and line where each object of a module gets its name, by the object's identity."""
    try:
        path = inspect.getsourcefile(module)
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError):
        # A module that was made in memory has no lines.
        return {}
    shown = "/".join(Path(path or "").parts[-2:])
    lines = {
        target.id: statement.lineno
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    lines |= {s.name: s.lineno for s in tree.body if isinstance(s, ast.FunctionDef)}
    return {id(found[name]): f"{shown}:{line}" for name, line in lines.items() if name in found}


def _at(
    places: Mapping[int, str], definition: object, refusals: Iterable[Refusal]
) -> Iterator[Refusal]:
    for refusal in refusals:
        yield refusal._replace(at=places.get(id(definition), ""))
