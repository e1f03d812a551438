"""The parts of the completion scripts that do not depend on the commands: how each shell asks and is answered."""

from __future__ import annotations

from typing import Final

# Walks the words before the cursor. Sets: at (path of the command), number (positionals after it), folder (--data-dir),
# taking (the option whose value is being typed, or nothing).
_walk: Final = """_blyan_walk() {
  at="" number=0 folder="" taking=""
  local word next
  for word in "$@"; do
    if [[ -n "$taking" ]]; then
      [[ "$taking" == --data-dir ]] && folder="$word"
      taking=""
    elif [[ "$word" == -* ]]; then
      [[ -n "$(_blyan_kind "$at" "$word")" ]] && taking="$word"
    else
      next=" $(_blyan_words "$at") "
      if [[ "$next" == *" $word "* ]]; then
        at="${at:+$at }$word"
      else
        number=$((number + 1))
      fi
    fi
  done
}
_blyan_models() {
  if [[ -n "$folder" ]]; then
    command blyan completion --models --data-dir "$folder" 2>/dev/null
  else
    command blyan completion --models 2>/dev/null
  fi
}
"""

# bash cuts words at a colon, which names of models (brief:v1) and addresses have, and completes what is after it
bash_end: Final = (
    _walk
    + """_blyan_whole() {
  local word glue=""
  whole=()
  for word in "$@"; do
    if [[ ( -n "$glue" || "$word" == :* ) && ${#whole[@]} -gt 1 ]]; then
      whole[${#whole[@]}-1]+="$word"
    else
      whole+=("$word")
    fi
    glue=""
    [[ "$word" == *: ]] && glue=1
  done
}
_blyan() {
  local at number folder taking kind current
  local -a whole
  _blyan_whole "${COMP_WORDS[@]:0:COMP_CWORD+1}"
  current="${whole[${#whole[@]}-1]}"
  _blyan_walk "${whole[@]:1:${#whole[@]}-2}"
  COMPREPLY=()
  if [[ -z "$taking" && "$current" == -* ]]; then
    COMPREPLY=($(compgen -W "$(_blyan_options "$at")" -- "$current"))
    return
  fi
  kind="$(_blyan_kind "$at" "${taking:-$number}")"
  case "$kind" in
    model) COMPREPLY=($(compgen -W "$(_blyan_models)" -- "$current")) ;;
    file) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$current")) ;;
    dir) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -d -- "$current")) ;;
    words\\ *) COMPREPLY=($(compgen -W "${kind#words }" -- "$current")) ;;
    "") [[ -z "$taking" ]] && COMPREPLY=($(compgen -W "$(_blyan_words "$at")" -- "$current")) ;;
  esac
  if [[ "$current" == *:* && "$COMP_WORDBREAKS" == *:* ]]; then
    COMPREPLY=("${COMPREPLY[@]#"${current%"${current##*:}"}"}")
  fi
}
complete -F _blyan blyan
"""
)

zsh_end: Final = (
    _walk
    + """_blyan() {
  local at number folder taking kind current="${words[CURRENT]}"
  local -a found
  _blyan_walk "${(@)words[2,CURRENT-1]}"
  if [[ -z "$taking" && "$current" == -* ]]; then
    found=(${=$(_blyan_options "$at")})
    compadd -a found
    return
  fi
  kind="$(_blyan_kind "$at" "${taking:-$number}")"
  case "$kind" in
    model) found=(${(f)"$(_blyan_models)"}); compadd -a found ;;
    file) _files ;;
    dir) _files -/ ;;
    words\\ *) found=(${=kind#words }); compadd -a found ;;
    "") found=(${(f)"$(_blyan_described "$at")"}); [[ -z "$taking" ]] && _describe command found ;;
  esac
}
if [[ "${funcstack[1]}" == _blyan ]]; then
  _blyan "$@"
else
  compdef _blyan blyan
fi
"""
)

fish_begin: Final = """function __blyan_at
    set -l at
    set -l taking
    for word in (commandline -opc)[2..]
        if test -n "$taking"
            set taking
        else if contains -- $word @TAKES@
            set taking $word
        else if not string match -q -- '-*' $word
            set -a at $word
        end
    end
    echo "$at"
end
function __blyan_is
    set -l at (__blyan_at)
    test "$at" = "$argv[1]"; and return 0
    # a command and its positionals
    test -n "$argv[1]"; and contains -- "$argv[1]" $__blyan_leaves; and string match -q -- "$argv[1] *" "$at"
end
function __blyan_models
    set -l words (commandline -opc)
    set -l place (contains -i -- --data-dir $words)
    and set -l folder $words[(math $place + 1)]
    and command blyan completion --models --data-dir $folder 2>/dev/null
    or command blyan completion --models 2>/dev/null
end
complete -c blyan -e
complete -c blyan -f
"""
