"""Formats that write a call's arguments one by one, each with its name, and not as one JSON object."""

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping

from antiphon.inference.v1.inference_pb2 import PART_KIND_FUNCTION_CALL
from inference.grammar import Grammar
from inference.parsing.marks import Marks
from inference.parsing.stepped import CallsParser
from inference.tools.format import ToolFormat
from inference.tools.parameters import ANY_TYPE, Parameter, add_fields, parameter_types, read_parameters


class FieldwiseParser(CallsParser):
    """Makes a JSON object of arguments, each of the type that its parameter's schema says.

    Args:
        functions: As ``ToolFormat.new_parser`` takes them.
    """

    def __init__(
        self, first: Callable[[], bool], functions: Mapping[str, str], *, mark: str, marks: Marks, may_mix: bool
    ) -> None:
        super().__init__(first, mark=mark, marks=marks, may_mix=may_mix)
        self._functions = functions
        self._parameters: Mapping[str, frozenset[str]] = {}
        self._types = ANY_TYPE
        self._has_argument = False

    def _begin_call(self, name: str) -> None:
        self._start(PART_KIND_FUNCTION_CALL, name)
        self._tell("{")
        self._parameters = parameter_types(self._functions.get(name, ""))
        self._has_argument = False

    def _name_argument(self, name: str) -> None:
        separator = ", " if self._has_argument else ""
        self._tell(f"{separator}{json.dumps(name, ensure_ascii=False)}: ")
        self._types = self._parameters.get(name, ANY_TYPE)
        self._has_argument = True

    def _end_call(self) -> None:
        self._tell("}")
        self._end()


class FieldwiseFormat(ToolFormat):
    """``ToolFormat`` of such formats."""

    separator: str = ""
    """Between two arguments."""

    @abstractmethod
    def add_field(self, grammar: Grammar, parameter: Parameter) -> str:
        """The rule of an argument, its name included.

        Raises:
            ApiError: INVALID_JSON_SCHEMA, the format cannot tell it.
        """

    def add_arguments(self, grammar: Grammar, schema: object, *, param: str) -> str:
        parameters = read_parameters(schema, param=param)
        if not parameters and isinstance(schema, dict) and schema.get("additionalProperties") is not False:
            return self.add_any_arguments(grammar)
        fields = [(self.add_field(grammar, parameter), parameter.is_required) for parameter in parameters]
        return add_fields(grammar, fields, self.separator)
