"""Change of the embedding model of an index: whether stored vectors can be translated, and the translation.

:func:`migrate` decides from a sample of the new model's embeddings, with or without pairs
(:mod:`repdyn.migration.plan`). :meth:`Migration.apply` translates files of any size, and resumes
(:mod:`repdyn.migration.columns`); :meth:`Migration.apply_to_database` does so in a table of PostgreSQL
(:mod:`repdyn.migration.filling`) or of LanceDB (:mod:`repdyn.migration.lance`).
"""

from repdyn.migration.filling import MigratedColumn
from repdyn.migration.plan import Migration, documents_found, migrate

__all__ = ["MigratedColumn", "Migration", "documents_found", "migrate"]
