"""Read `pyright --verifytypes --outputjson`; print the share of typed names, fail under a bound."""

import json
import sys

found = json.load(sys.stdin)["typeCompleteness"]
score = 100 * found["completenessScore"]
for symbol in found["symbols"]:
    if symbol["isExported"] and not symbol["isTypeKnown"]:
        print(symbol["name"], *(note["message"] for note in symbol["diagnostics"]), sep="\n    ")
print(f"pyright --verifytypes: {score:.1f}% of the public names have known types")
sys.exit(score < float(sys.argv[1]))
