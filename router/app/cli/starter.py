"""What ``init`` writes: a configuration and a rule file that work as they are and say what each line is for."""

from __future__ import annotations

ROUTER_TOML = """\
#:schema ./router.schema.json
# For editors that complete and check: dicom-router schema > router.schema.json, in this folder.
# dicom-router. Try: dicom-router check, then dicom-router run.
# Unknown keys are errors. conf.d/*.toml beside this file is merged; DICOM_ROUTER__NODE__NAME=... overrides [node] name.

[node]
name     = "router-1"
data_dir = "var"                        # spool and ledger, relative to this file; needs a local disk
# workers = 1                           # processes that share the ports and both of these, for many processors

[[listen]]
bind      = "127.0.0.1:11112"           # "0.0.0.0:11112" for other machines
ae_titles = ["ROUTER"]                  # called AE titles we answer to; ["*"] for any
accept    = "any"                       # whoever is on this machine; for others say "known" and name [peers]
tls       = "off"                       # plain DICOM; or { certificate = "FILE", key = "FILE", ca = "FILE" }

# Who may call: AE title and address must both match.
# [peers.ct1]
# ae_title  = "CT1"
# addresses = ["10.1.0.0/16"]

# Where objects go. Each destination has a queue of its own: one that is down costs the others nothing.
[destinations.archive]
url = "file:var/archive"                # a folder of Part 10 files

# [destinations.pacs]
# url              = "dicom://PACS@10.1.2.3:104"      # dicoms:// for TLS
# calling_ae_title = "ROUTER"
# max_associations = 4

[rules]
path        = "rules"
on_no_match = "hold"                    # or "reject", "discard"; held objects wait for `dicom-router release`

[spool]
keep_delivered = "24h"                  # how long delivered objects stay for `dicom-router resend`

[admin]
bind = "127.0.0.1:9180"                 # console, metrics and the API that the command line uses

[log]
format = "auto"                         # JSON unless a terminal reads
"""

RULES_TOML = """\
# Rules are read in file name order, and in order within a file. The destinations of all rules that match add up;
# `final = true` stops at a rule. Try: dicom-router explain FILE.dcm

# [[rule]]
# name     = "thin chest CT to AI"
# match    = { Modality = "CT", SliceThickness = { max = 1.5 }, StudyDescription = { regex = "(?i)chest|thorax" } }
# not      = { PatientID = "TEST*" }
# to       = ["ai"]
# priority = "stat"

[[rule]]
name = "everything to the archive"
to   = ["archive"]

# Run by `dicom-router check` and before every reload.
[[test]]
name  = "a CT goes to the archive"
given = { Modality = "CT" }
to    = ["archive"]
"""
