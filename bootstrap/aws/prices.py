"""Price lists: what AWS charges for machines, by region, and for its services."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from features.errors import InvalidSetting

Architecture = Literal["arm64", "x86_64"]


@dataclass(frozen=True)
class InstanceType:
    """A type of machine; `relative_speed` is one vCPU's pace relative to one core of the measured machine."""

    vcpus: int
    architecture: Architecture
    relative_speed: float


@dataclass(frozen=True)
class Instances:
    """The machine types with prices."""

    types: Mapping[str, InstanceType]


@dataclass(frozen=True)
class HourlyPrice:
    """Dollars an hour; `emr` is what EMR adds, by default its usual share of `on_demand`."""

    on_demand: float
    spot: float
    emr: float | None = None


@dataclass(frozen=True)
class ServicePrice:
    """Dollars for one unit; `assumed` when no source has the figure."""

    price: float
    source: str
    date: str
    assumed: bool = False


@dataclass(frozen=True)
class Prices:
    """A price list: machines by region and type, services by name."""

    instances: Instances
    regions: Mapping[str, Mapping[str, HourlyPrice]]
    services: Mapping[str, ServicePrice]

    def of(self, service: str) -> float:
        """Dollars for one unit of a service. Raises InvalidSetting when the list lacks it."""
        if service not in self.services:
            raise InvalidSetting(f"The price list has no [services.{service}]; add it, or leave out --prices.")
        return self.services[service].price

    def machine(self, region: str, name: str) -> HourlyPrice:
        """Dollars an hour of one machine in a region. Raises InvalidSetting when the list lacks it."""
        if region not in self.regions:
            known = ", ".join(sorted(self.regions))
            raise InvalidSetting(f"There are no prices for the region {region}; choose one of {known}.")
        if name not in self.regions[region]:
            raise InvalidSetting(f"The price list has no {name} in {region}; add it, or leave out --prices.")
        return self.regions[region][name]

    def instance_type(self, name: str) -> InstanceType:
        """What a machine type is. Raises InvalidSetting when the list lacks it."""
        if name not in self.instances.types:
            raise InvalidSetting(f"The price list says nothing of {name}; add it to [instances.types].")
        return self.instances.types[name]

    def emr(self, region: str, name: str) -> float:
        """Dollars an hour that EMR adds to a machine's price."""
        hourly = self.machine(region, name)
        return self.of("emr_share") * hourly.on_demand if hourly.emr is None else hourly.emr


def load_prices(path: Path | None = None) -> Prices:
    """A price list from a file, by default the one that comes with the program.

    Raises InvalidSetting when the file is no price list.
    """
    from pydantic import TypeAdapter, ValidationError

    path = path or Path(__file__).with_name("prices.toml")
    try:
        return TypeAdapter(Prices).validate_python(tomllib.loads(path.read_text()))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidSetting(f"{path} cannot be read as a price list: {error}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidSetting(f"{path} is no price list: {where}: {first['msg']}.") from error
