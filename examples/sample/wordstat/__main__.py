import sys

from wordstat.cli import main

sys.exit(main())
