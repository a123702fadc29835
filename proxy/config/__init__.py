"""The settings: from flags, environment and file, in that order of precedence, to frozen values.

The only reader of the environment and of the settings file. What comes out is plain: the command
line and `app` take it apart, and no other part sees it. Whether a host name is one of ECR's is not
judged here: that grammar belongs to `upstream`.
"""

from proxy.config.load import load_cache_settings, load_settings
from proxy.config.sources import SettingsError
from proxy.config.values import (
    DEFAULT_ABANDON_FILLS_BELOW,
    DEFAULT_CACHE_SIZE,
    DEFAULT_LISTEN,
    DEFAULT_MIN_FREE,
    DEFAULT_PUSH_MODE,
    DEFAULT_SHUTDOWN_TIMEOUT,
    DEFAULT_STALE_IF_ERROR,
    DEFAULT_VERIFY_RATE,
    ENV_PREFIX,
    CacheSettings,
    LogLevel,
    NewRepositorySettings,
    PushMode,
    RegistrySettings,
    Rewrite,
    Settings,
    Show,
    is_loopback,
    parse_listen,
)

__all__ = [
    "DEFAULT_ABANDON_FILLS_BELOW",
    "DEFAULT_CACHE_SIZE",
    "DEFAULT_LISTEN",
    "DEFAULT_MIN_FREE",
    "DEFAULT_PUSH_MODE",
    "DEFAULT_SHUTDOWN_TIMEOUT",
    "DEFAULT_STALE_IF_ERROR",
    "DEFAULT_VERIFY_RATE",
    "ENV_PREFIX",
    "CacheSettings",
    "LogLevel",
    "NewRepositorySettings",
    "PushMode",
    "RegistrySettings",
    "Rewrite",
    "Settings",
    "SettingsError",
    "Show",
    "is_loopback",
    "load_cache_settings",
    "load_settings",
    "parse_listen",
]
