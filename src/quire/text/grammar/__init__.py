"""What an answer must look like: schemas, regexes and grammars become one text that the engine masks tokens by."""
