-- Hold what requests take of all limits, or of none, for each request id, in order. Atomic.
--
-- Redis' clock determines the day, clamped to the range that the caller's monotonic clock allows, so that a clock step
-- grants no requests. Old days have no TTL, since a step would expire them; the sweeper removes them.
--
-- A request takes 1 of limits of requests, `tokens` + its output of those of tokens, and `cost` + `rate` for each million
-- tokens of output, rounded up, of those of cost. The output is the largest one up to the wanted one that all limits
-- allow.
--
-- KEYS[1]  quota:{bucket}:account:account_id   prefix of the account's entries; the day is appended here, or the month
-- KEYS[2]  quota:{bucket}:holds                deadline of each hold of the bucket
-- ARGV     clock offset in seconds, earliest and latest possible day, lifetime of a hold in milliseconds, account id,
--          key id, number of values for each request (1 or 5), initial counts (`place of the limit among those that are
--          set@first day of the window=count` with a blank before each), then limits, '' for those that are not set:
--          requests a day of the key and of the account (always set), then of both, requests a minute, tokens a day,
--          tokens a minute, cost a day, cost a month, concurrent requests; then for each request its id, and of the five
--          values wanted output, tokens, cost, rate, which are 0 for requests without an estimate
-- Returns  {day, now in milliseconds, 0, then for each limit that is set whether it has no counter (1 or 0)} if one has
--          neither a counter nor an initial count for this window; otherwise {day, now in milliseconds, 1, then for each
--          limit that is set: charged, held before the call; then for each request: denied (0), held (1) or held before
--          (2), tokens of output}

local REQUESTS_DAY, REQUESTS_MINUTE, TOKENS_DAY, TOKENS_MINUTE, COST_DAY, COST_MONTH = 9, 11, 13, 15, 17, 19
local CONCURRENT, FIRST_REQUEST, MINUTES_AHEAD_MAX = 21, 23, 10
local ARGV, tonumber = ARGV, tonumber
local hold_ms, account_id, key_id = tonumber(ARGV[4]), ARGV[5], ARGV[6]
local values_each, initial_counts = tonumber(ARGV[7]), ARGV[8]

local function quotient(a, b)
  return (a - a % b) / b
end

-- The first day of the month of a day, by the algorithm `civil_from_days` of Howard Hinnant.
local function month_of(days)
  local of_era = (days + 719468) % 146097
  local year = quotient(of_era - quotient(of_era, 1460) + quotient(of_era, 36524) - quotient(of_era, 146096), 365)
  local of_year = of_era - (365 * year + quotient(year, 4) - quotient(year, 100))
  local month = quotient(5 * of_year + 2, 153)
  return days - (of_year - quotient(153 * month + 2, 5))
end

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + quotient(time[2], 1000)
local seconds = time[1] + ARGV[1]
local day = math.max(tonumber(ARGV[2]), math.min(tonumber(ARGV[3]), quotient(seconds, 86400)))
local minute = string.format('%d', quotient(seconds, 60))
local day_text = string.format('%d', day)
local entries = KEYS[1] .. ':' .. day_text

-- All that is read of the day's entries, in the order in which it is checked below.
local fields, n = {}, 0
local function read(first, suffix, third)
  for i = first, first + 1 do
    if ARGV[i] ~= '' then
      local counter = (i == first and key_id or account_id) .. suffix
      fields[n + 1], fields[n + 2], fields[n + 3] = counter, counter .. ':held', counter .. third
      n = n + 3
    end
  end
end
read(REQUESTS_DAY, ':requests', ':limit')
read(REQUESTS_MINUTE, ':requests_minute', ':minute')
read(TOKENS_DAY, ':tokens', ':limit')
read(TOKENS_MINUTE, ':tokens_minute', ':minute')
read(COST_DAY, ':cost', ':limit')
local first_mark = n + 1
-- The day's entries say whether its requests are counted in a month.
fields[n + 1], fields[n + 2] = key_id .. ':cost@month', account_id .. ':cost@month'
n = n + 2
-- Counters of limits that are not set are read to be dropped.
local first_unused = n + 1
local function read_unused(first, suffix)
  for i = first, first + 1 do
    if ARGV[i] == '' then
      n = n + 1
      fields[n] = (i == first and key_id or account_id) .. suffix
    end
  end
end
read_unused(TOKENS_DAY, ':tokens')
read_unused(COST_DAY, ':cost')
local first_hold = n + 1
for i = FIRST_REQUEST, #ARGV, values_each do
  n = n + 1
  fields[n] = ARGV[i]
end
local values = redis.call('HMGET', entries, unpack(fields))

-- Counts of the limits that are set, as in the answer, and what is written: `writes` and `month_writes`, which begin with
-- what is held, and `minutes` only if a request is admitted.
local answer, a, is_missing, is_initialised = {day, now_ms, 1}, 3, false, false
local writes, w, month_writes, minutes, changes, month_changes = {}, 0, {}, {}, {}, {}
local function append(list, field, value)
  local size = #list
  list[size + 1], list[size + 2] = field, value
end

-- Return what is charged of a day or a month, and nil if that is not known; keep the highest limit.
local function charged_in(values, place, counter, limit, start, changes)
  local charged, highest = tonumber(values[place]), tonumber(values[place + 2] or -1)
  if not charged and initial_counts ~= '' then
    -- An existing counter wins: another replica may have initialised and charged it since the ledger was read.
    charged = tonumber(string.match(initial_counts, ' ' .. (a - 1) / 2 .. '@' .. start .. '=(%d+)'))
    if charged then
      -- The ledger's charges were within the limit at their time, which may have been lowered since.
      highest, is_initialised = charged, true
      append(changes, counter, charged)
      append(changes, counter .. ':limit', charged)
    end
  end
  if limit > highest then
    append(changes, counter .. ':limit', limit)
  end
  return charged
end

local function answer_with(charged, held)
  answer[a + 1], answer[a + 2] = charged or -1, held
  a, is_missing = a + 2, is_missing or not charged
end

-- Each of these returns what the tightest of two limits has left, and appends the counters' names in holds to `names`.
local at = 1
local function check_day(first, names)
  local least = math.huge
  for i = first, first + 1 do
    local limit = tonumber(ARGV[i])
    if limit then
      local counter, held = fields[at], tonumber(values[at + 1] or 0)
      local charged = charged_in(values, at, counter, limit, day_text, changes)
      answer_with(charged, held)
      names[#names + 1] = counter
      writes[w + 1], writes[w + 2] = fields[at + 1], held
      at, w = at + 3, w + 2
      least = math.min(least, limit - (charged or 0) - held)
    end
  end
  return least
end

local function check_minute(first, names)
  local least = math.huge
  for i = first, first + 1 do
    local limit = tonumber(ARGV[i])
    if limit then
      local counter, stored, charged, held = fields[at], values[at + 2], 0, 0
      -- A clock that steps back by some minutes does not start the minute over.
      local ahead = stored and stored - minute or 0
      local its_minute = ahead > 0 and ahead <= MINUTES_AHEAD_MAX and stored or minute
      if stored == its_minute then
        charged, held = tonumber(values[at]), tonumber(values[at + 1] or 0)
      else
        append(minutes, counter, 0)
        append(minutes, fields[at + 2], its_minute)
      end
      answer_with(charged, held)
      names[#names + 1] = counter .. '@' .. its_minute
      writes[w + 1], writes[w + 2] = fields[at + 1], held
      at, w = at + 3, w + 2
      least = math.min(least, limit - (charged or 0) - held)
    end
  end
  return least
end

local month_text, month_entries, month_names
local function check_month(names)
  local least, counters, marks, month_fields = math.huge, {}, {}, {}
  for i = COST_MONTH, COST_MONTH + 1 do
    if ARGV[i] ~= '' then
      local counter = (i == COST_MONTH and key_id or account_id) .. ':cost'
      counters[#counters + 1], marks[#marks + 1] = counter, first_mark + i - COST_MONTH
      append(month_fields, counter, counter .. ':held')
      month_fields[#month_fields + 1] = counter .. ':limit'
    end
  end
  month_text, month_names = string.format('%d', month_of(day)), counters
  month_entries = KEYS[1] .. ':month:' .. month_text
  local month_values = redis.call('HMGET', month_entries, unpack(month_fields))
  for n, counter in ipairs(counters) do
    local place, mark = 3 * n - 2, marks[n]
    local limit, held = tonumber(ARGV[COST_MONTH + mark - first_mark]), tonumber(month_values[place + 1] or 0)
    local charged = charged_in(month_values, place, counter, limit, month_text, month_changes)
    answer_with(charged, held)
    names[#names + 1] = counter .. '@' .. month_text
    append(month_writes, counter .. ':held', held)
    least = math.min(least, limit - (charged or 0) - held)
    if not values[mark] then
      append(changes, fields[mark], 1)
    end
  end
  return least
end

-- Holds of the previous day that are not settled yet are in flight too.
local function check_concurrent()
  local least = math.huge
  local entries_before = KEYS[1] .. ':' .. string.format('%d', day - 1)
  local held_before = redis.call('HMGET', entries_before, key_id .. ':requests:held', account_id .. ':requests:held')
  for n = 1, 2 do
    local limit = tonumber(ARGV[CONCURRENT + n - 1])
    if limit then
      local held = writes[2 * n] + (held_before[n] or 0)
      answer_with(0, held)
      least = math.min(least, limit - held)
    end
  end
  return least
end

local request_names, token_names, cost_names = {}, {}, {}
local left_requests = math.min(check_day(REQUESTS_DAY, request_names), check_minute(REQUESTS_MINUTE, request_names))
local w_requests = w
local left_tokens = math.min(check_day(TOKENS_DAY, token_names), check_minute(TOKENS_MINUTE, token_names))
local w_tokens = w
local left_cost = check_day(COST_DAY, cost_names)
if ARGV[COST_MONTH] ~= '' or ARGV[COST_MONTH + 1] ~= '' then
  left_cost = math.min(left_cost, check_month(cost_names))
end
if ARGV[CONCURRENT] ~= '' or ARGV[CONCURRENT + 1] ~= '' then
  left_requests = math.min(left_requests, check_concurrent())
end
if is_missing then
  local missing = {day, now_ms, 0}
  for place = 4, a, 2 do
    missing[#missing + 1] = answer[place] < 0 and 1 or 0
  end
  return missing
end

-- The largest output up to the wanted one that all limits allow; negative if they allow no request at all.
local function output_allowed(wanted, tokens, cost, rate)
  if left_requests < 1 or left_tokens < tokens or left_cost < cost then
    return -1
  end
  if wanted == 0 then
    return 0
  end
  local output = math.min(wanted, left_tokens - tokens)
  if rate > 0 then
    output = math.min(output, math.floor((left_cost - cost) * 1000000 / rate))
  end
  return output > 0 and output or -1
end

local function pairs_of(names, amount)
  if not names[1] then
    return ''
  end
  local text = string.format('%d', amount)
  return ' ' .. table.concat(names, ' ' .. text .. ' ') .. ' ' .. text
end

local prefix = string.format('%d', now_ms) .. ' ' .. account_id .. ' ' .. key_id .. ' '
local requests_text = pairs_of(request_names, 1)
local taken_requests, taken_tokens, taken_cost, outputs, deadlines = 0, 0, 0, {}, {}
for i = FIRST_REQUEST, #ARGV, values_each do
  local request_id, state = ARGV[i], 2
  local hold, output = values[first_hold + (i - FIRST_REQUEST) / values_each], outputs[request_id]
  if hold then
    output = tonumber(string.match(hold, '^%d+ [^ ]+ [^ ]+ (%d+)') or 0)
  elseif not output then
    local wanted, tokens, cost, rate = 0, 0, 0, 0
    if values_each > 1 then
      wanted, tokens, cost, rate = tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4])
    end
    output = output_allowed(wanted, tokens, cost, rate)
    if output < 0 then
      state, output = 0, 0
    else
      state, outputs[request_id] = 1, output
      tokens, cost = tokens + output, cost + math.ceil(output * rate / 1000000)
      taken_requests, left_requests = taken_requests + 1, left_requests - 1
      taken_tokens, left_tokens = taken_tokens + tokens, left_tokens - tokens
      taken_cost, left_cost = taken_cost + cost, left_cost - cost
      local start = prefix .. string.format('%d', output)
      append(changes, request_id, start .. requests_text .. pairs_of(token_names, tokens) .. pairs_of(cost_names, cost))
      if month_names then
        append(month_changes, request_id, start .. pairs_of(month_names, cost))
      end
      append(deadlines, now_ms + hold_ms, account_id .. ' ' .. day_text .. ' ' .. request_id)
    end
  end
  answer[a + 1], answer[a + 2] = state, output
  a = a + 2
end
if taken_requests > 0 then
  redis.call('ZADD', KEYS[2], unpack(deadlines))
  for place = 1, w, 2 do
    local taken = place < w_requests and taken_requests or place < w_tokens and taken_tokens or taken_cost
    append(changes, writes[place], writes[place + 1] + taken)
  end
  for place = 1, #month_writes, 2 do
    append(month_changes, month_writes[place], month_writes[place + 1] + taken_cost)
  end
  for place = 1, #minutes, 2 do
    append(changes, minutes[place], minutes[place + 1])
  end
end
if changes[1] then
  redis.call('HSET', entries, unpack(changes))
end
if month_changes[1] then
  redis.call('HSET', month_entries, unpack(month_changes))
end
-- Counters of limits that are no longer set miss what is charged from now on. They are dropped, and start from the ledger
-- when their limits are set again. This comes last: a server out of memory refuses a script's first write only.
local function drop(hash, counter)
  redis.call('HDEL', hash, counter, counter .. ':held', counter .. ':limit')
end
for place = first_unused, first_hold - 1 do
  if values[place] then
    drop(entries, fields[place])
  end
end
for place = first_mark, first_mark + 1 do
  -- The first request of a day finds no mark of the day before.
  if ARGV[COST_MONTH + place - first_mark] == '' and (values[place] or is_initialised) then
    drop(KEYS[1] .. ':month:' .. string.format('%d', month_of(day)), string.sub(fields[place], 1, -7))
    redis.call('HDEL', entries, fields[place])
  end
end
return answer
