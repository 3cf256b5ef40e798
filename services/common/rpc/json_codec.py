"""Lossless conversion between JSON objects and protobuf messages that mirror them.

Rules for mirrored messages:

- A field has the name of its JSON member. `optional` distinguishes absent from zero.
- A string field `x_json` holds any JSON value of the member `x`, as JSON text.
- A oneof `x` holds a member of several types. The JSON type selects the alternative, and a message whose only field is
  `repeated … items` represents an array.
- `extra_json` holds, as the text of one JSON object, every member without a field, and every member whose field cannot
  represent its value (null, an empty array, another type). Empty means none.

Each message type is compiled once, to a table of functions by member name.
"""

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import msgspec
from google.protobuf.descriptor import Descriptor, FieldDescriptor, OneofDescriptor
from google.protobuf.message import Message

Filler = Callable[[Message, Any], bool]
"""Writes a JSON value to a message field. Returns false, and writes nothing, if the field cannot represent it."""

Emitter = Callable[[Any, dict[str, Any]], None]
"""Writes a field's value to a JSON object."""

_EXTRA = "extra_json"
_JSON_SUFFIX = "_json"
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_EXACT_INT_MAX = 2**53
_encode = msgspec.json.Encoder().encode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def to_message(message: Message, members: dict[str, Any]) -> None:
    """Write the members of a JSON object to an empty message of a mirrored type.

    Raises:
        ValueError: A string contains a lone surrogate, which protobuf cannot represent.
    """
    fillers = _fillers(message.DESCRIPTOR)
    extra = {
        name: value
        for name, value in members.items()
        if (filler := fillers.get(name)) is None or not filler(message, value)
    }
    if extra:
        setattr(message, _EXTRA, _extra_text(extra))


def to_json(message: Message) -> dict[str, Any]:
    """Return the JSON object of a mirrored message. Values may be `msgspec.Raw`, which msgspec encodes verbatim."""
    emitters = _emitters(message.DESCRIPTOR)
    out: dict[str, Any] = {}
    for field, value in message.ListFields():
        emitters[field.name](value, out)
    extra = getattr(message, _EXTRA)
    if extra:
        for name, value in _extra_members(extra).items():
            out.setdefault(name, value)
    return out


def encode(message: Message) -> bytes:
    """Return the JSON text of a mirrored message."""
    return _encode(to_json(message))


@cache
def _fillers(descriptor: Descriptor) -> dict[str, Filler]:
    fillers: dict[str, Filler] = {}
    for field in descriptor.fields:
        if field.name == _EXTRA or _union(field) is not None:
            continue
        fillers[_member_name(field)] = _filler(field)
    for union in descriptor.oneofs:
        if not _is_synthetic(union):
            fillers[union.name] = _union_filler(union)
    return fillers


def _filler(field: FieldDescriptor) -> Filler:
    if field.is_repeated:
        return _array_filler(field)
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return _object_filler(field)
    return _scalar_filler(field)


def _scalar_filler(field: FieldDescriptor) -> Filler:
    name = field.name
    if field.type == FieldDescriptor.TYPE_STRING and name.endswith(_JSON_SUFFIX):
        return _json_filler(name)
    fits = _FITS[field.type]

    def put(message: Message, value: Any) -> bool:
        if not fits(value):
            return False
        setattr(message, name, value)
        return True

    return put


def _json_filler(name: str) -> Filler:
    def put(message: Message, value: Any) -> bool:
        if value is None:
            return False
        setattr(message, name, _encode(value).decode())
        return True

    return put


def _object_filler(field: FieldDescriptor) -> Filler:
    name = field.name

    def put(message: Message, value: Any) -> bool:
        if type(value) is not dict:
            return False
        part = getattr(message, name)
        part.SetInParent()
        to_message(part, value)
        return True

    return put


def _array_filler(field: FieldDescriptor) -> Filler:
    put_items = _items_filler(field)

    def put(message: Message, value: Any) -> bool:
        return type(value) is list and bool(value) and put_items(message, value)

    return put


def _items_filler(field: FieldDescriptor) -> Filler:
    name = field.name
    if field.type == FieldDescriptor.TYPE_MESSAGE:

        def put_objects(message: Message, value: Any) -> bool:
            if not all(type(item) is dict for item in value):
                return False
            array = getattr(message, name)
            for item in value:
                to_message(array.add(), item)
            return True

        return put_objects
    fits = _FITS[field.type]

    def put_scalars(message: Message, value: Any) -> bool:
        if not all(fits(item) for item in value):
            return False
        getattr(message, name).extend(value)
        return True

    return put_scalars


def _union_filler(union: OneofDescriptor) -> Filler:
    alternatives = [_alternative_filler(field) for field in union.fields]

    def put(message: Message, value: Any) -> bool:
        return any(alternative(message, value) for alternative in alternatives)

    return put


def _alternative_filler(field: FieldDescriptor) -> Filler:
    items = _array_of(field)
    if items is None:
        return _filler(field)
    name, put_items = field.name, _items_filler(items)

    def put(message: Message, value: Any) -> bool:
        if type(value) is not list:
            return False
        array = getattr(message, name)
        array.SetInParent()
        if put_items(array, value):
            return True
        message.ClearField(name)
        return False

    return put


@cache
def _emitters(descriptor: Descriptor) -> dict[str, Emitter]:
    return {field.name: _emitter(field) for field in descriptor.fields}


def _emitter(field: FieldDescriptor) -> Emitter:
    if field.name == _EXTRA:
        return lambda value, out: None
    name = _member_name(field)
    if field.is_repeated:
        return _array_emitter(field, name)
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        items = _array_of(field) if _union(field) else None
        return _wrapped_emitter(items, name) if items else lambda value, out: out.__setitem__(name, to_json(value))
    if field.name.endswith(_JSON_SUFFIX):
        return lambda value, out: out.__setitem__(name, msgspec.Raw(value.encode()))
    return lambda value, out: out.__setitem__(name, value)


def _array_emitter(field: FieldDescriptor, name: str) -> Emitter:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return lambda value, out: out.__setitem__(name, [to_json(item) for item in value])
    return lambda value, out: out.__setitem__(name, list(value))


def _wrapped_emitter(items: FieldDescriptor, name: str) -> Emitter:
    emit, inner = _array_emitter(items, name), items.name
    return lambda value, out: emit(getattr(value, inner), out)


def _member_name(field: FieldDescriptor) -> str:
    union = _union(field)
    if union is not None:
        return union.name
    return field.name.removesuffix(_JSON_SUFFIX) if field.type == FieldDescriptor.TYPE_STRING else field.name


def _union(field: FieldDescriptor) -> OneofDescriptor | None:
    union = field.containing_oneof
    return None if union is None or _is_synthetic(union) else union


def _is_synthetic(union: OneofDescriptor) -> bool:
    """Return whether protoc generated this oneof for an `optional` field."""
    return len(union.fields) == 1 and union.name == f"_{union.fields[0].name}"


def _array_of(field: FieldDescriptor) -> FieldDescriptor | None:
    """Return the `items` field of an alternative that represents an array, or None for any other field."""
    fields = field.message_type.fields if field.message_type else []
    return fields[0] if len(fields) == 1 and fields[0].name == "items" and fields[0].is_repeated else None


def _extra_text(extra: dict[str, Any]) -> str:
    if all(value is None for value in extra.values()):
        return _nulls_text(tuple(extra))
    return _encode(extra).decode()


@lru_cache(maxsize=1024)
def _nulls_text(names: tuple[str, ...]) -> str:
    """Return the JSON text of members that are all null. Cached because the chunks of a stream repeat the same ones."""
    return _encode(dict.fromkeys(names)).decode()


def _extra_members(text: str) -> dict[str, Any]:
    return _short_members(text) if len(text) <= _SHORT_TEXT else _decode_members(text)


_SHORT_TEXT = 64


@lru_cache(maxsize=1024)
def _short_members(text: str) -> dict[str, Any]:
    return _decode_members(text)


def _fits_double(value: Any) -> bool:
    return type(value) is float or (type(value) is int and -_EXACT_INT_MAX <= value <= _EXACT_INT_MAX)


_FITS: dict[int, Callable[[Any], bool]] = {
    FieldDescriptor.TYPE_STRING: lambda value: type(value) is str,
    FieldDescriptor.TYPE_BOOL: lambda value: type(value) is bool,
    FieldDescriptor.TYPE_INT64: lambda value: type(value) is int and _INT64_MIN <= value <= _INT64_MAX,
    FieldDescriptor.TYPE_DOUBLE: _fits_double,
}
