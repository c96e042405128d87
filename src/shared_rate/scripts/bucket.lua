-- A token bucket, or a leaky bucket ("paced"), in one string: "amount part second micro count per burst".
--
-- amount and part are what is in it: whole tokens (a leaky bucket: whole requests ahead of the rate) and a rest in
-- units of 1 / (per * 1,000,000) token. They were true at that moment, and the terms behind them hold from then on
-- until somebody comes with others: so an edit never changes the past. All numbers stay below 2^53.
--
-- KEYS: the bucket. ARGV: paced (0, 1), count, per (seconds), burst, least, want, chunk, longest wait (us), given back.
-- Answer: granted, wait (us: until it may go, or until `least` can be had; -1 = never), left, 0, 0.
local paced = ARGV[1] == '1'
local count, per, burst = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local least, want, chunk = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local longest, back = tonumber(ARGV[8]), tonumber(ARGV[9])
local floor, ceil, min, max = math.floor, math.ceil, math.min, math.max
local MILLION = 1000000

local time = redis.call('TIME')
local second, micro = tonumber(time[1]), tonumber(time[2])
local unit = per * MILLION
local amount, part = burst, 0
if paced then amount = 0 end
local fresh = true

local text = redis.pcall('GET', KEYS[1])
local v = {}
if type(text) == 'string' then
  for number in string.gmatch(text, '%d+') do v[#v + 1] = tonumber(number) end
end
if #v == 7 then
  fresh = v[5] ~= count or v[6] ~= per or v[7] ~= burst
  amount, part = v[1], v[2]
  local ds, du = second - v[3], micro - v[4]
  if du < 0 then ds, du = ds - 1, du + MILLION end
  -- A clock that was set back: from here it goes on.
  if ds < 0 then ds, du, fresh = 0, 0, true end
  local whole, gained, rest = ds * v[5], nil, 0
  local old = v[6] * MILLION
  if whole >= 2000000000 * v[6] then
    gained = 2000000000
  else
    local fraction = (whole % v[6]) * MILLION + du * v[5]
    gained, rest = floor(whole / v[6]) + floor(fraction / old), fraction % old
  end
  if paced then
    amount, part = amount - gained, part - rest
    if part < 0 then amount, part = amount - 1, part + old end
    if amount < 0 then amount, part = 0, 0 end
  else
    amount, part = amount + gained, part + rest
    if part >= old then amount, part = amount + 1, part - old end
    if amount >= v[7] then amount, part = v[7], 0 end
  end
  if v[6] ~= per then
    if paced then part = ceil(part * per / v[6]) else part = floor(part * per / v[6]) end
    if part >= unit then amount, part = amount + 1, 0 end
  end
end

-- The time in which the rate makes `tokens` and `extra` parts of one, in whole microseconds, rounded up.
local function span(tokens, extra)
  local seconds = floor(tokens * per / count)
  return seconds * MILLION + ceil(((tokens * per - seconds * count) * MILLION + extra) / count)
end

local granted, wait, left = 0, 0, 0
if paced then
  local broken = 0
  if part > 0 then broken = 1 end
  if least > burst then
    wait = -1
  elseif amount + broken + least <= burst and span(amount, part) <= longest then
    wait = span(amount, part)
    while granted + chunk <= want and amount + broken + granted + chunk <= burst
      and (granted == 0 or span(amount + granted, part) <= longest) do
      granted = granted + chunk
    end
    amount = amount + granted
  else
    wait = span(amount, part) - longest
    if amount + broken + least > burst then
      wait = max(wait, span(amount + least - burst, part))
    end
  end
  left = max(0, burst - amount - broken)
else
  amount = amount + back
  if amount >= burst then amount, part = burst, 0 end
  if least > burst then
    wait = -1
  elseif amount >= least then
    granted = min(amount, max(want, least))
    amount = amount - granted
  else
    wait = span(least - amount, -part)
  end
  left = amount
end

if granted > 0 or back > 0 or fresh then
  local missing = burst - amount
  if paced then missing = amount + 1 end
  -- Gone when it is as if it had never been; a minute is for clocks and edits.
  local life = min(ceil(span(missing, 0) / 1000) + 60000, 10000000000000)
  redis.call('SET', KEYS[1],
    string.format('%.0f %.0f %.0f %.0f %.0f %.0f %.0f', amount, part, second, micro, count, per, burst),
    'PX', string.format('%.0f', life))
end
return {granted, wait, left, 0, 0}
