"""Files of this repository that are made from others: translations, tables, examples, pictures.
Tests fail where one is out of date."""
