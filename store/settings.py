"""The settings in force: what flags, `FRUITS_*` in the environment and `fruits.toml` say."""

import re
import tomllib
from typing import Any

from pydantic import ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from features.errors import InvalidSetting
from features.image import Limits
from store.home import Home
from store.objects.landing import LAYOUT_PATTERNS
from store.objects.location import StorageLocation, is_plain_key
from store.setting_fields import SettingFields

# With the longest name of an answer it stays below the 1,024 bytes of S3.
_MOST_PREFIX_BYTES = 200


class Settings(BaseSettings, SettingFields):
    """Everything that can be set; a flag beats the environment, which beats the file, which beats the default."""

    model_config = SettingsConfigDict(env_prefix="FRUITS_", toml_file="fruits.toml", extra="forbid", frozen=True)

    @field_validator("key_pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        try:
            named = re.compile(pattern).groupindex
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        if unknown := set(named) - {"label", "subject"}:
            raise ValueError(f"named groups are label and subject, not {', '.join(sorted(unknown))}")
        return pattern

    @field_validator("metrics")
    @classmethod
    def _is_a_namespace(cls, namespace: str | None) -> str | None:
        if namespace is not None and not re.fullmatch(r"(?!AWS/)[\w./#-][\w./#:-]{0,254}", namespace, re.ASCII):
            raise ValueError("write a CloudWatch namespace, like Fruits/prod; those that begin with AWS/ are taken")
        return namespace

    @model_validator(mode="after")
    def _one_way_to_choose_components(self) -> "Settings":
        if self.components is not None and self.variance is not None:
            raise ValueError("components and variance exclude each other; set one of them")
        return self

    @model_validator(mode="after")
    def _one_way_to_read_keys(self) -> "Settings":
        if self.layout is not None and self.key_pattern is not None:
            raise ValueError("layout and key_pattern exclude each other; set one of them")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    def places(self) -> Home:
        """Where everything lives, with the names that the home gave its landings; asks the home's storage.

        Raises InvalidSetting when the places cannot go together, StateDamaged, StorageRefused, StorageUnavailable.
        """
        # Loaded only here: it opens tables.
        from store.state.landing_names import with_names

        return with_names(self.locations())

    def locations(self) -> Home:
        """The same by the settings alone; nobody is asked. Raises InvalidSetting when the places cannot go together."""
        root = StorageLocation.at(self.home, self.s3_endpoint, self.s3_region)
        # The tables' library decodes percent signs, on disk too, and would write elsewhere.
        if set(root.uri) & set("%" if root.is_local else "%#?"):
            raise InvalidSetting(f"{root.uri} cannot be a home: its name has a '%', '#' or '?'; choose another.")
        if not (root.is_local or is_plain_key(root.bucket_and_prefix[1])):
            raise InvalidSetting(
                f"{root.uri!r} cannot be a home: its name has an empty, '.' or '..' segment or a control character; "
                "choose another."
            )

        def place(setting: str | None, default: str) -> StorageLocation:
            return StorageLocation.at(setting, self.s3_endpoint, self.s3_region) if setting else root.child(default)

        home = Home(root, place(self.landing, "landing"), place(self.archive, "archive"))
        for name, inner in (("home", home.root), ("archive", home.archive)):
            if f"{inner.uri}/".startswith(f"{home.landing.uri}/"):
                raise InvalidSetting(
                    f"The {name} lies in the landing, so its files would be taken for photos; move it."
                )
        if self.queue is not None and home.landing.is_local:
            raise InvalidSetting(
                f"A queue tells of objects on S3, and {home.landing.uri} is a directory; drop --queue."
            )
        if self.answers and not home.root.is_local and len(root.bucket_and_prefix[1].encode()) > _MOST_PREFIX_BYTES:
            raise InvalidSetting(
                f"With answers the home's prefix may have {_MOST_PREFIX_BYTES} bytes at most, so that the key of each "
                "answer fits; choose a shorter one."
            )
        if self.clean == "archive" and home.landing.is_local != home.archive.is_local:
            raise InvalidSetting("clean=archive needs the landing and the archive on the same kind of storage.")
        return home

    @property
    def key_pattern_in_force(self) -> str:
        """The regular expression that finds label and subject in a key: `key_pattern`, or that of the layout."""
        return self.key_pattern if self.key_pattern is not None else LAYOUT_PATTERNS[self.layout or "first-folder"]

    @property
    def keeps_copies(self) -> bool:
        """Whether each photo leaves a copy: `clean = "reduce"` needs it."""
        return self.copies or self.clean == "reduce"

    @property
    def limits(self) -> Limits:
        return Limits(self.max_image_bytes, self.max_pixels, self.max_decode_time.total_seconds())


_ALTERNATIVES = (("components", "variance"), ("layout", "key_pattern"))


def load_settings(**flags: Any) -> Settings:
    """The settings in force, given the flags (None: not used). Raises InvalidSetting with a line for each mistake."""
    given = {name: value for name, value in flags.items() if value is not None}
    for alternatives in _ALTERNATIVES:
        if len(given.keys() & alternatives) == 1:
            # A flag beats what the environment or the file say of its alternative, too.
            given = dict.fromkeys(alternatives) | given
    try:
        return Settings(**given)
    except tomllib.TOMLDecodeError as error:
        raise InvalidSetting(f"fruits.toml is not valid TOML: {error}") from error
    except ValidationError as error:
        lines = (
            ": ".join(filter(None, (".".join(map(str, e["loc"])), e["msg"].removeprefix("Value error, "))))
            for e in error.errors()
        )
        raise InvalidSetting("; ".join(lines)) from error
