"""Estimators of scikit-learn, each of whose fits is a study."""
