"""Kinds of numbers in signatures that the configuration is checked against."""

from typing import Annotated

from pydantic import Field

Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]  # of training: a share of all steps below 1, else steps
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]  # of a loss term
Count = Annotated[int, Field(gt=0)]
