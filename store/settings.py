"""Settings: one spelling each in `fruits.toml`, as `FRUITS_*`, as flags and here."""

import re
import tomllib
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ByteSize, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from features.errors import InvalidSetting
from features.featurizer import FEATURES
from features.image import Limits
from store.home import Home
from store.objects.faults import READING_DEADLINE_S, RETRY_DEADLINE_S
from store.objects.landing import Cleaning
from store.objects.location import StorageLocation, is_plain_key

_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def parse_duration(text: Any) -> Any:
    """`250ms`, `2s`, `5m`, `6h` or `14d` as a timedelta; anything else raises ValueError."""
    if isinstance(text, timedelta):
        return text
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*", str(text))
    if match is None:
        raise ValueError("write a number and a unit: 250ms, 2s, 5m, 6h, 14d")
    return timedelta(milliseconds=float(match[1]) * _UNIT_MS[match[2]])


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]


class Settings(BaseSettings):
    """Everything that can be set; a flag beats the environment, which beats the file, which beats the default."""

    model_config = SettingsConfigDict(env_prefix="FRUITS_", toml_file="fruits.toml", extra="forbid", frozen=True)

    home: str = "./fruits-data"
    landing: str | None = None
    archive: str | None = None
    weights: str = "auto"
    trigger: Duration = timedelta(seconds=2)
    settle: Duration = timedelta(seconds=30)
    max_files: int = Field(default=10_000, ge=1)
    max_bytes: ByteSize = Field(default=ByteSize(16 * 2**30), ge=1)
    key_pattern: str = r"^(?P<label>[^/]+)/"
    queue: str | None = None
    backfill: Duration = Field(default=timedelta(hours=6), gt=timedelta(0))
    only_new: bool = False
    clean: Cleaning = "keep"
    clean_after: Duration = timedelta(0)
    keep_archive: Duration | None = Field(default=None, gt=timedelta(0))
    keep_reports: Duration | None = Field(default=None, gt=timedelta(0))
    keep_rows: Duration | None = Field(default=None, ge=timedelta(days=15))
    components: int | None = Field(default=None, ge=1, le=FEATURES)
    variance: float | None = Field(default=None, gt=0, le=1)
    min_rows: int = Field(default=1000, ge=2)
    master: str = "local[*,4]"
    max_image_bytes: ByteSize = Field(default=ByteSize(64 * 2**20), ge=1)
    max_pixels: int = Field(default=100_000_000, ge=1)
    max_decode_time: Duration = Field(default=timedelta(seconds=60), gt=timedelta(0))
    storage_patience: Duration = Field(default=timedelta(seconds=RETRY_DEADLINE_S), gt=timedelta(0))
    reading_patience: Duration = Field(default=timedelta(seconds=READING_DEADLINE_S), gt=timedelta(0))
    s3_endpoint: str | None = None
    s3_region: str | None = None
    stage: str = "dev"
    region: str = "eu-west-3"
    architecture: Literal["arm64", "x86_64"] | None = None
    alarm_email: str | None = None
    monthly_budget_usd: int | None = Field(default=None, ge=1)
    max_capacity_units: int | None = Field(default=None, ge=0)
    allow_region: str | None = None
    metrics: str | None = None

    @field_validator("key_pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
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
        if self.clean == "archive" and home.landing.is_local != home.archive.is_local:
            raise InvalidSetting("clean=archive needs the landing and the archive on the same kind of storage.")
        return home

    @property
    def limits(self) -> Limits:
        return Limits(self.max_image_bytes, self.max_pixels, self.max_decode_time.total_seconds())


_ALTERNATIVES = ("components", "variance")


def load_settings(**flags: Any) -> Settings:
    """The settings in force, given the flags that were used (None means: not used).

    Raises InvalidSetting with one line for each setting that is unusable.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    if len(given.keys() & _ALTERNATIVES) == 1:
        # A flag beats what the environment or the file say of its alternative, too.
        given = dict.fromkeys(_ALTERNATIVES) | given
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
