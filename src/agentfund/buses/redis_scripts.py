"""What the Redis server does in one step: Lua scripts, each of which happens wholly or not at all.

A log is a stream whose entry ids are the offsets (`7-0`), each with one field: its name tells stream and key (`4 fund AAPL`,
so that scripts need not look inside), its value is the message. The other keys lie in the same hash slot: a hash `meta` of
the log's format, id and end and of each stream's last offset (`sfund`), and a hash `ids` of offsets. Every script is told
which log its caller knows and how far it went, and refuses to go on with another one: a server that was restarted
without its data looks empty, and an empty log is not what the caller had. The answer is one text, which is read faster
than a list: the log's id, its end, and the rest.

A script that writes is refused by a full server before it begins, never in the middle of it. The order of the first
writes does the rest: what could fail, because a key is not ours, is read or written before anything else.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

FORMAT = 1
PAGE = 256  # messages that one script looks at: the server serves nobody else meanwhile
_WINDOW = 1_024  # messages a group may have handed out or set aside before it looks further into the log
_UNANSWERED = json.dumps("no consumer answered for it within its lease")

# Gives the log's id and its end, or nil and what is wrong. A log that was never written has an empty id.
_OPENED = """
local function opened()
  local meta = redis.call('HMGET', KEYS[1], 'format', 'id', 'end')
  local id, last = meta[2], tonumber(meta[3] or '0')
  if not id then
    if ARGV[1] ~= '' then return nil, redis.error_reply('LOGGONE 0') end
    if redis.call('EXISTS', unpack(KEYS)) > 0 then return nil, redis.error_reply('LOGFOREIGN') end
    return '', 0
  end
  if meta[1] ~= 'FORMAT' then return nil, redis.error_reply('LOGFORMAT ' .. (meta[1] or '0')) end
  if (ARGV[1] ~= '' and ARGV[1] ~= id) or last < tonumber(ARGV[2]) then
    return nil, redis.error_reply('LOGGONE ' .. meta[3])
  end
  return id, last
end
local function digits(number) return string.format('%.0f', number) end
local function answer(id, last, ...) return table.concat({id, digits(last), ...}, ' ') end
local function stream_of(head)
  local length, at = string.match(head, '^(%d+) ()')
  return string.sub(head, at, at + length - 1), string.sub(head, at + length + 1)
end
local function range(after, upto)
  local found = redis.call('XRANGE', KEYS[2], digits(after + 1) .. '-0', digits(upto) .. '-0')
  if #found ~= upto - after then return nil, redis.error_reply('LOGHOLE ' .. digits(after)) end
  return found
end
""".replace("FORMAT'", f"{FORMAT}'")

# The state of a group: in its hash the `position`, how many are `pending`, and for each of these its attempt and who
# has it (a7), the next one of its key (n7), and for each key its last one (tKEY). Only the first of a key is in `free`,
# by offset, or in `held`, by the end of its lease: so order within a key outlives its consumers.
_GROUP = """
local GROUP, FREE, HELD, DEAD, BELL = KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local function let_go(offset)
  redis.call('ZREM', HELD, offset)
  redis.call('ZADD', FREE, offset, offset)
end
local function give_back(tag, from)
  local kept, number = {}, 0
  for i = from, #ARGV do kept[ARGV[i]] = true end
  for _, offset in ipairs(redis.call('ZRANGE', HELD, 0, -1)) do
    local value = redis.call('HGET', GROUP, 'a' .. offset)
    if value and not kept[offset] and string.sub(value, -#tag) == tag then
      let_go(offset)
      number = number + 1
    end
  end
  return number
end
local function finish(offset, key)
  local following = redis.call('HGET', GROUP, 'n' .. offset)
  redis.call('ZREM', FREE, offset)
  redis.call('ZREM', HELD, offset)
  if following then
    redis.call('HDEL', GROUP, 'a' .. offset, 'n' .. offset)
    redis.call('ZADD', FREE, following, following)
  else
    redis.call('HDEL', GROUP, 'a' .. offset, 't' .. key)
  end
  redis.call('HINCRBY', GROUP, 'pending', -1)
end
local function bury(offset, key, reason)
  redis.call('RPUSH', DEAD, offset .. ' ' .. reason)
  finish(offset, key)
end
-- Who waits for something to do blocks on the log and on this bell.
local function wake()
  if redis.call('ZCARD', FREE) > 0 then
    redis.call('XADD', BELL, 'MAXLEN', 1, redis.call('HINCRBY', GROUP, 'bell', 1) .. '-0', 'b', '')
  end
end
"""


@dataclass(frozen=True, slots=True)
class Script:
    """A script, and the name under which a server that has it knows it.

    Args:
        flags: what the server may let it do.
        body: after the functions that all share.
        group: whether it works on a group of consumers.
    """

    flags: str
    body: str
    group: bool = False
    text: bytes = field(init=False, default=b"")
    sha: bytes = field(init=False, default=b"")

    def __post_init__(self) -> None:
        text = f"#!lua flags={self.flags}\n{_OPENED}{_GROUP if self.group else ''}{self.body}".encode()
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "sha", hashlib.sha1(text, usedforsecurity=False).hexdigest().encode())


# KEYS meta, log, ids. ARGV id, tip. Returns id, end and what this user may not do: half a script is worse than none.
OPEN = Script(
    "no-writes",
    """
local id, last = opened()
if not id then return last end
local denied = {}
for _, command in ipairs({
  {'XADD', KEYS[2], '1-0', 'f', 'v'}, {'XREAD', 'STREAMS', KEYS[2], '0-0'}, {'HSET', KEYS[3], 'f', 'v'}, {'HGET', KEYS[3], 'f'},
  {'HDEL', KEYS[1], 'f'}, {'HINCRBY', KEYS[1], 'f', '1'}, {'ZADD', KEYS[1], '1', 'm'}, {'ZREM', KEYS[1], 'm'},
  {'ZRANGE', KEYS[1], '0', '0'}, {'ZCARD', KEYS[1]}, {'RPUSH', KEYS[1], 'v'}, {'TIME'}
}) do
  if not redis.acl_check_cmd(unpack(command)) then denied[#denied + 1] = command[1] end
end
return answer(id, last, table.concat(denied, ','))
""",
)

# KEYS meta, log, ids. ARGV id, tip, id of a log that is made, batches, their sizes, then id, head and data of
# each message. Returns id, end, and for each batch the offset of its last message.
APPEND = Script(
    "",
    """
local id, last = opened()
if not id then return last end
local before, batches, heads, head = last, tonumber(ARGV[4]), {}
local at = 5 + batches
local reply = {}
for batch = 1, batches do
  local offset
  for _ = 1, tonumber(ARGV[4 + batch]) do
    offset = redis.call('HGET', KEYS[3], ARGV[at])
    if not offset then
      last = last + 1
      offset = digits(last)
      head = ARGV[at + 1]
      redis.call('XADD', KEYS[2], offset .. '-0', head, ARGV[at + 2])
      redis.call('HSET', KEYS[3], ARGV[at], offset)
      heads[head] = last
    end
    at = at + 3
  end
  reply[batch] = offset
end
if last > before then
  if id == '' then
    id = ARGV[3]
    redis.call('HSET', KEYS[1], 'format', 'FORMAT', 'id', id)
  end
  local newest, end_ = {}, digits(last)
  local stream = stream_of(head)
  redis.call('HSET', KEYS[1], 'end', end_, 's' .. stream, end_)
  heads[head] = nil
  for head, offset in pairs(heads) do
    local other = stream_of(head)
    newest[other] = math.max(newest[other] or 0, offset)
  end
  newest[stream] = nil
  for stream, offset in pairs(newest) do redis.call('HSET', KEYS[1], 's' .. stream, digits(offset)) end
end
return answer(id, last, unpack(reply))
""".replace("FORMAT'", f"{FORMAT}'"),
)

# KEYS meta, log. ARGV id, tip, after, upto or -1, page, then a stream or nothing. Returns id, end, upto, and a JSON list of
# offsets and messages in turn: one text is read faster than a thousand.
READ = Script(
    "no-writes",
    """
local id, last = opened()
if not id then return last end
local after, upto = tonumber(ARGV[3]), tonumber(ARGV[4])
if upto < 0 then upto = last end
local page, wrong = range(after, math.max(after, math.min(after + tonumber(ARGV[5]), upto)))
if not page then return wrong end
local stream, parts = ARGV[6], {}
for _, entry in ipairs(page) do
  if not stream or stream_of(entry[2][1]) == stream then
    parts[#parts + 1] = string.sub(entry[1], 1, -3)
    parts[#parts + 1] = entry[2][2]
  end
end
return answer(id, last, digits(upto), '[' .. table.concat(parts, ',') .. ']')
""",
)

# KEYS meta, log. ARGV id, tip, then a stream or nothing. Returns id, end, offset, and a JSON list as above.
LAST = Script(
    "no-writes",
    """
local id, last = opened()
if not id then return last end
local offset = last
if ARGV[3] then offset = tonumber(redis.call('HGET', KEYS[1], 's' .. ARGV[3]) or '0') end
if offset == 0 then return answer(id, last, '[]') end
local page, wrong = range(offset - 1, offset)
if not page then return wrong end
return answer(id, last, '[' .. digits(offset) .. ',' .. page[1][2][2] .. ']')
""",
)

# KEYS meta, log and the group's. ARGV id, tip, who asks, lease in microseconds, most attempts, whether an earlier answer may
# have been lost, whether a stream follows, the stream, what the caller knows that it has. Returns id, end, then offset,
# attempt, message; or 0, after how many microseconds it is worth asking again (-1: when there is more), and the places of
# log and bell after which there would be more.
TAKE = Script(
    "allow-oom",
    """
local id, last = opened()
if not id then return last end
if id == '' then return answer(id, last, '0 -1 0 0') end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local tag, most, looked = ARGV[3], tonumber(ARGV[5]), false
local state = redis.call('HMGET', GROUP, 'position', 'pending', 'bell')
local position, pending = tonumber(state[1] or '0'), tonumber(state[2] or '0')
if position > last then return redis.error_reply('LOGGONE ' .. digits(last)) end
if ARGV[6] == '1' then give_back(tag, 9) end
for _, offset in ipairs(redis.call('ZRANGE', HELD, '-inf', digits(now), 'BYSCORE')) do let_go(offset) end

local function look_further()
  local upto = math.min(position + PAGE, last)
  local page, wrong = range(position, upto)
  if not page then return wrong end
  local fields, free, tails = {}, {}, {}
  for _, entry in ipairs(page) do
    local stream, key = stream_of(entry[2][1])
    if ARGV[7] == '0' or stream == ARGV[8] then
      local offset = string.sub(entry[1], 1, -3)
      local before = tails[key] or redis.call('HGET', GROUP, 't' .. key)
      fields[#fields + 1] = 'a' .. offset
      fields[#fields + 1] = '0'
      if before then
        fields[#fields + 1] = 'n' .. before
        fields[#fields + 1] = offset
      else
        free[#free + 1] = offset
        free[#free + 1] = offset
      end
      tails[key] = offset
      pending = pending + 1
    end
  end
  for key, offset in pairs(tails) do
    fields[#fields + 1] = 't' .. key
    fields[#fields + 1] = offset
  end
  position = upto
  redis.call('HSET', GROUP, 'position', digits(position), 'pending', digits(pending), unpack(fields))
  if #free > 0 then redis.call('ZADD', FREE, unpack(free)) end
end

while true do
  local offset = redis.call('ZRANGE', FREE, 0, 0)[1]
  if not offset and not looked and position < last and pending < WINDOW then
    looked = true
    local wrong = look_further()
    if wrong then return wrong end
    offset = redis.call('ZRANGE', FREE, 0, 0)[1]
  end
  if not offset then break end
  local found, wrong = range(tonumber(offset) - 1, tonumber(offset))
  if not found then return wrong end
  local attempt = tonumber(string.match(redis.call('HGET', GROUP, 'a' .. offset), '^%d+')) + 1
  if attempt <= most then
    redis.call('HSET', GROUP, 'a' .. offset, attempt .. ' ' .. tag)
    redis.call('ZREM', FREE, offset)
    redis.call('ZADD', HELD, digits(now + tonumber(ARGV[4])), offset)
    return answer(id, last, offset, attempt, found[1][2][2])
  end
  local _, key = stream_of(found[1][2][1])
  bury(offset, key, 'UNANSWERED')
  pending = pending - 1
end
if position < last and pending < WINDOW then return answer(id, last, '0 0 0 0') end
local soonest = redis.call('ZRANGE', HELD, 0, 0, 'WITHSCORES')
local wait = soonest[2] and digits(math.max(1, tonumber(soonest[2]) - now)) or '-1'
return answer(id, last, '0', wait, digits(last), state[3] or '0')
""".replace("PAGE", str(PAGE))
    .replace("WINDOW", str(_WINDOW))
    .replace("UNANSWERED", _UNANSWERED),
    group=True,
)

# KEYS as TAKE. ARGV id, tip, offset, attempt and who, key, what became of it, the reason. Returns id, end, and 1
# where the message was still this attempt's to answer for.
SETTLE = Script(
    "allow-oom",
    """
local id, last = opened()
if not id then return last end
local offset, key = ARGV[3], ARGV[5]
if redis.call('HGET', GROUP, 'a' .. offset) ~= ARGV[4] then return answer(id, last, '0') end
if ARGV[6] == 'done' then
  finish(offset, key)
elseif ARGV[6] == 'dead' then
  bury(offset, key, ARGV[7])
elseif redis.call('ZSCORE', HELD, offset) then
  let_go(offset)
end
wake()
return answer(id, last, '1')
""",
    group=True,
)

# KEYS as TAKE. ARGV id, tip, who. Returns id and end.
RELEASE = Script(
    "allow-oom",
    """
local id, last = opened()
if not id then return last end
if give_back(ARGV[3], 4) > 0 then wake() end
return answer(id, last, '')
""",
    group=True,
)

# KEYS meta, log, dead. ARGV id, tip, first, last, of the group's dead letters. Returns id, end, and a JSON list of offset,
# message and reason in turn.
DEAD = Script(
    "no-writes",
    """
local id, last = opened()
if not id then return last end
local parts = {}
for _, letter in ipairs(redis.call('LRANGE', KEYS[3], ARGV[3], ARGV[4])) do
  local offset, reason = string.match(letter, '^(%d+) (.*)$')
  local page, wrong = range(tonumber(offset) - 1, tonumber(offset))
  if not page then return wrong end
  parts[#parts + 1] = offset
  parts[#parts + 1] = page[1][2][2]
  parts[#parts + 1] = reason
end
return answer(id, last, '[' .. table.concat(parts, ',') .. ']')
""",
)
