"""Coordinates in which the data of a family take less room."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Coordinates:
    """A family in other coordinates, and the way there and back; here the same ones.

    Attributes
    ----------
    family : UnitFamily
    """

    family: object

    def into(self, network):
        """A network in these coordinates."""
        return network

    def back(self, network):
        """The inverse of `into`."""
        return network
