"""Compute what pages and API say of studies, trainings and models."""
