# Sourced by the other scripts. `crates/test-kit/src/{cache,claude}.rs` compute the same.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Where installed and built test parts are kept.
cache=${OSTLER_TEST_CACHE:-}
if [[ -z $cache ]]; then
  base=${XDG_CACHE_HOME:-}
  [[ $base == /* ]] || base=$HOME/.cache
  cache=$base/ostler-test
fi

# Claude Code, in the version that the tests are written against.
claude_version=$(sed -n 's/.*CLAUDE_VERSION: &str = "\(.*\)";/\1/p' "$root/crates/test-kit/src/claude.rs")
claude_dir=$cache/claude-$claude_version
case $(uname -m) in
  aarch64) claude_arch=arm64 ;;
  *) claude_arch=x64 ;;
esac
claude_program=$claude_dir/node_modules/@anthropic-ai/claude-code-linux-$claude_arch/claude
