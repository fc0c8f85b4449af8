"""What the tests share is in shared.py, which the process that only deals tests out leaves alone.

To import it takes ten seconds, and it would take them before the others begin.
"""


def pytest_configure(config):
    deals_out = config.getoption("numprocesses", None) and not hasattr(config, "workerinput")
    if not deals_out:
        config.pluginmanager.import_plugin("shared")
