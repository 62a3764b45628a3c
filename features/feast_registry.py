"""Feast's SQL registry, but the functions of on-demand views come from the code, never out of the registry.

Feast keeps such a function twice, as a pickle and as text, and runs one of them whenever a view is read. Here no pickle is
written, and what the registry holds is never run: a view that is read gets the function that the applied plan names, cut
out of the use case's module and checked by its digest (`features.on_demand_source`). The text is there for people, and for
Feast's own tools, which know no better.
"""

# ruff: noqa: FBT001, FBT002 - booleans by position are Feast's interface

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pandas as pd
from feast import FeatureStore
from feast.base_feature_view import BaseFeatureView
from feast.errors import FeatureViewNotFoundException
from feast.infra.registry.sql import SqlRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.protos.feast.core.OnDemandFeatureView_pb2 import (
    OnDemandFeatureView as OnDemandFeatureViewProto,
)
from feast.protos.feast.core.Transformation_pb2 import FeatureTransformationV2
from feast.repo_config import RepoConfig
from feast.transformation.base import Transformation
from feast.transformation.pandas_transformation import PandasTransformation
from feast.transformation.python_transformation import PythonTransformation
from feast.utils import has_all_tags

from features.on_demand import OnDemandView
from features.on_demand_function import Function, FunctionChanged
from features.settings import StoreSettings
from features.views import Plan
from schemas.errors import HeadraceError


class CodeView(OnDemandFeatureView):
    """A view whose function is the code's: what the registry holds in its place is not read."""

    @classmethod
    def from_proto(
        cls,
        on_demand_feature_view_proto: OnDemandFeatureViewProto,
        skip_udf: bool = False,  # noqa: ARG003 - Feast's interface
    ) -> CodeView:
        """The view without a function."""
        view: CodeView = super().from_proto(on_demand_feature_view_proto, skip_udf=True)
        return view

    def with_function(self, function: Function) -> CodeView:
        """The view with its function; in the registry it leaves the text alone."""
        self.feature_transformation = _transformation(function)
        proto = FeatureTransformationV2()
        written = proto.user_defined_function
        written.name, written.body_text = function.view.function, function.text
        written.mode = function.view.mode
        self._raw_feature_transformation_proto = proto
        return self


def code_view(definition: OnDemandFeatureView, compiled: OnDemandView) -> CodeView:
    """A definition as it is applied."""
    projections = definition.source_feature_view_projections.values()
    requests = definition.source_request_sources.values()
    view = CodeView(
        name=definition.name,
        schema=definition.features,
        sources=[*projections, *requests],
        mode=definition.mode,
        description=definition.description,
        tags=definition.tags,
        owner=definition.owner,
    )
    view.entities = definition.entities
    return view.with_function(Function(compiled))


class CodeRegistry(SqlRegistry):
    """Reads on-demand views as `CodeView`s with the functions of the applied plan."""

    def __init__(self, config: RepoConfig, stores: StoreSettings) -> None:
        self._stores = stores
        self._functions: dict[str, Function] = {}
        # Of views that were applied past the compiler, by this very process.
        self._live: dict[str, Transformation] = {}
        super().__init__(config.registry, config.project, None)

    def apply_feature_view(
        self,
        feature_view: BaseFeatureView,
        project: str,
        *args: Any,  # noqa: ANN401 - Feast's
        **options: Any,  # noqa: ANN401
    ) -> None:
        """As Feast's; the function of an on-demand view that the plan does not know is remembered for this process."""
        if isinstance(feature_view, OnDemandFeatureView) and not isinstance(feature_view, CodeView):
            self._live[feature_view.name] = feature_view.feature_transformation
        super().apply_feature_view(feature_view, project, *args, **options)

    def get_on_demand_feature_view(
        self, name: str, project: str, allow_cache: bool = False
    ) -> OnDemandFeatureView:
        """The view, with its function.

        Raises:
            FeatureViewNotFoundException: there is none of that name.
        """
        for view in self.list_on_demand_feature_views(project, allow_cache):
            if view.name == name:
                return view
        raise FeatureViewNotFoundException(name, project)

    def list_on_demand_feature_views(
        self,
        project: str,
        allow_cache: bool = False,
        tags: dict[str, str] | None = None,
        skip_udf: bool = False,
    ) -> list[OnDemandFeatureView]:
        """All of a project, with their functions unless they are to be skipped."""
        views = [
            CodeView.from_proto(proto)
            for proto in self._on_demand_protos(project, allow_cache)
            if has_all_tags(dict(proto.spec.tags), tags)
        ]
        return list(views if skip_udf else map(self._with_function, views))

    def get_any_feature_view(
        self, name: str, project: str, allow_cache: bool = False
    ) -> BaseFeatureView:
        """The view of that name, of whatever kind."""
        for proto in self._on_demand_protos(project, allow_cache):
            if proto.spec.name == name:
                return self._with_function(CodeView.from_proto(proto))
        found: BaseFeatureView = super().get_any_feature_view(name, project, allow_cache)
        return found

    def list_all_feature_views(
        self,
        project: str,
        allow_cache: bool = False,
        tags: dict[str, str] | None = None,
        skip_udf: bool = False,
        updated_since: datetime | None = None,
    ) -> list[BaseFeatureView]:
        """All views, of whatever kind."""
        found = super().list_all_feature_views(
            project, allow_cache, tags, skip_udf=True, updated_since=updated_since
        )
        named = {
            v.name: v
            for v in self.list_on_demand_feature_views(project, allow_cache, tags, skip_udf)
        }
        return [named.get(v.name, v) if isinstance(v, OnDemandFeatureView) else v for v in found]

    def _on_demand_protos(self, project: str, allow_cache: bool) -> list[OnDemandFeatureViewProto]:
        if allow_cache:
            self._refresh_cached_registry_if_necessary()
            held = self.cached_registry_proto.on_demand_feature_views
            return [proto for proto in held if proto.spec.project == project]
        return list(self._list_on_demand_feature_views(project, None, proto_only=True))

    def _get_on_demand_feature_view(self, name: str, project: str) -> OnDemandFeatureView:
        return self.get_on_demand_feature_view(name, project)

    def _infer_fv_classes(self, feature_view: BaseFeatureView) -> tuple[Any, Any]:
        python_class, proto_class = super()._infer_fv_classes(feature_view)
        return CodeView if python_class is OnDemandFeatureView else python_class, proto_class

    def _proto_class_for_type(self, fv_type: str) -> tuple[Any, Any]:
        proto_class, python_class = super()._proto_class_for_type(fv_type)
        return proto_class, CodeView if python_class is OnDemandFeatureView else python_class

    def _with_function(self, view: CodeView) -> CodeView:
        """The view with the function of the applied plan; where there is none, whoever runs it hears why."""
        if view.name in self._live:
            view.feature_transformation = self._live[view.name]
            return view
        try:
            return view.with_function(self._function(view.name))
        except HeadraceError as error:
            # While definitions are being applied, the registry is read before the plan says what they are.
            view.feature_transformation = PandasTransformation(_raising(error), "")
            if view.mode == "python":
                view.feature_transformation = PythonTransformation(_raising(error), "")
            return view

    def _function(self, name: str) -> Function:
        compiled = {v.name: v for v in Plan.load(self._stores.plan_path).on_demand}.get(name)
        if compiled is None:
            raise FunctionChanged(
                f"on-demand view {name}",
                wanted="a function that was applied",
                came=f"{self._stores.plan_path} has no such view",
                mend="Apply the definitions anew.",
            )
        held = self._functions.get(name)
        if held is None or held.view != compiled:
            held = self._functions[name] = Function(compiled)
        return held


class HeadraceFeatureStore(FeatureStore):
    """Feast's store over a `CodeRegistry`; all else is Feast's own."""

    def _create_registry(self) -> CodeRegistry:
        stores: StoreSettings = self.config.online_store.stores
        return CodeRegistry(self.config, stores)


def _transformation(function: Function) -> PandasTransformation | PythonTransformation:
    """Feast's wrapper of a function; the wrapper is copied at will, so what matters is inside of the function."""
    if function.view.mode == "pandas":
        return PandasTransformation(udf=_of_frames(function), udf_string=function.text)
    made = _NamedInFull(udf=_of_lists(function), udf_string=function.text)
    made.view = function.view.name
    return made


class _NamedInFull(PythonTransformation):
    """Feast looks for full names in what lists give, and unlike with frames does not make them."""

    view: str

    def transform(self, input_dict: dict[str, Any]) -> dict[str, Any]:
        made = self.udf(input_dict)
        full = {f"{self.view}__{name}": column for name, column in made.items()}
        return {**input_dict, **made, **full}


def _of_frames(function: Function) -> Callable[[Any], Any]:
    def run(frame):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202 - Feast reads annotations
        return pd.DataFrame(function.evaluate(_given(function, frame), len(frame)))

    return run


def _of_lists(function: Function) -> Callable[[Any], Any]:
    def run(columns):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202 - Feast reads annotations
        given = _given(function, columns)
        rows = max((len(column) for column in given.values()), default=0)
        made = function.evaluate(given, rows)
        return {n: [None if v != v else v for v in c.tolist()] for n, c in made.items()}  # noqa: PLR0124

    return run


def _raising(error: HeadraceError) -> Callable[[Any], Any]:
    def run(given):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202, ARG001 - Feast reads annotations
        raise error

    return run


def _given(function: Function, columns: Any) -> dict[str, Any]:  # noqa: ANN401 - a frame or lists
    names = [*(one.full for one in function.view.inputs), *function.view.request]
    return {name: list(columns[name]) for name in names}
