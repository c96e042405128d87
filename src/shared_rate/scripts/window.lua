-- A window, fixed (one slot as long as the unit) or sliding (15 slots of a unit, and the current one), in one string:
-- "slot used used ...": the number of the newest slot since 1970, and what was granted in it and in those before it.
--
-- KEYS: the window. ARGV: slots in a unit (1, 15), count, per (seconds), least, want, given back, the slot it is from.
-- Answer: granted, wait (us until `least` can be had; -1 = never), left, how long the grant may be used (us), its slot.
local slots, count, per = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local least, want = tonumber(ARGV[4]), tonumber(ARGV[5])
local back, from = tonumber(ARGV[6]), tonumber(ARGV[7])
local floor, ceil, min, max = math.floor, math.ceil, math.min, math.max
local unit = per * 1000000
local kept = slots
if slots > 1 then kept = slots + 1 end

local time = redis.call('TIME')
local second, micro = tonumber(time[1]), tonumber(time[2])
-- In two parts, to stay below 2^53: which unit, and how far into it.
local epoch, inside = floor(second / per), (second % per) * 1000000 + micro
local slot = epoch * slots + floor(inside * slots / unit)

local used, newest, fresh = {}, slot, false
for i = 1, kept do used[i] = 0 end
local text = redis.pcall('GET', KEYS[1])
local v = {}
if type(text) == 'string' then
  for number in string.gmatch(text, '%d+') do v[#v + 1] = tonumber(number) end
end
if #v == kept + 1 then
  -- A clock that was set back by a slot stays in the newest one; after more, what was used counts as used just now.
  newest = v[1]
  if newest > slot + 1 then newest, fresh = slot, true end
  if slot > newest then newest = slot end
  for i = 1, kept do
    local age = newest - (min(v[1], newest) - (i - 1))
    if age < kept then used[age + 1] = used[age + 1] + v[i + 1] end
  end
end
slot = newest
if back > 0 and slot - from >= 0 and slot - from < kept then
  local at = slot - from + 1
  used[at] = max(0, used[at] - back)
else
  back = 0
end

local total = 0
for i = 1, kept do total = total + used[i] end
-- From now until that slot begins, in microseconds, rounded up.
local function until_slot(number)
  return (floor(number / slots) - epoch) * unit + ceil((number % slots) * unit / slots) - inside
end

local granted, wait = 0, 0
if least > count then
  wait = -1
elseif total + least <= count then
  granted = min(count - total, max(want, least))
  used[1] = used[1] + granted
else
  local freed = 0
  for i = kept, 1, -1 do
    freed = freed + used[i]
    if total - freed + least <= count then
      wait = max(1, until_slot(slot - (i - 1) + kept))
      break
    end
  end
end

if granted > 0 or back > 0 or fresh then
  local parts = {}
  for i = 1, kept do parts[i] = string.format('%.0f', used[i]) end
  local life = ceil(until_slot(slot + kept) / 1000) + 1000
  redis.call('SET', KEYS[1], string.format('%.0f ', slot) .. table.concat(parts, ' '), 'PX', string.format('%.0f', life))
end
-- The beginning of the next slot, rounded down: what is granted in a slot is used in it.
local valid = (floor((slot + 1) / slots) - epoch) * unit + floor(((slot + 1) % slots) * unit / slots) - inside
return {granted, wait, max(0, count - total - granted), max(0, valid), slot}
